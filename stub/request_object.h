// `pb_utils.InferenceRequest`: as `execute` gets it, and as a model makes one for a BLS call.
#pragma once

#include "py.h"
#include "stub_link.h"

namespace tensorferry::stub {

bool make_request_type(PyObject* module);
// Moves the inputs out of `request`: they are the object's from then on.
PyRef new_request(InboundRequest& request);
// get_input_tensor_by_name(inference_request, name): the Tensor, or None.
PyObject* get_input_tensor(PyObject*, PyObject* args, PyObject* keywords);

}  // namespace tensorferry::stub
