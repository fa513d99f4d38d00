// `pb_utils.InferenceResponse`: the answer to one request, tensors or an error.
#pragma once

#include "py.h"

namespace tensorferry::stub {

struct ResponseObject {
  PyObject_HEAD PyObject* tensors;  // list of Tensor
  PyObject* error;                  // TritonError, or None
  PyObject* parameters;             // JSON text
  PyObject* parameter_items;        // the same as a tuple of (key, value)
};

bool make_response_type(PyObject* module);
bool is_response(PyObject* object) noexcept;
inline ResponseObject* as_response(PyObject* object) noexcept {
  return reinterpret_cast<ResponseObject*>(object);
}

}  // namespace tensorferry::stub
