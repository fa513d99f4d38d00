// What the native types ask of their Python half (payload/compat/c_python_backend_utils.py): slow
// paths, whose place is Python. Set once, by register(); borrowed for the life of the process.
#pragma once

#include "py.h"
#include "stub_state.h"

namespace tensorferry::stub {

struct PythonHalf {
  PyObject* triton_error = nullptr;         // the type
  PyObject* request_arguments = nullptr;    // InferenceRequest's arguments → (inputs, flags, made)
  PyObject* response_parameters = nullptr;  // a dict → (JSON text, tuple of (key, value)), checked
  PyObject* to_json = nullptr;
  PyObject* trace = nullptr;       // context (str or None) → InferenceTrace
  PyObject* find_input = nullptr;  // (request, name) → Tensor or None, for any request-like object
};

PythonHalf& python_half() noexcept;
// register(model_exception, triton_error, request_arguments, response_parameters, to_json, trace,
// find_input)
PyObject* register_python_half(PyObject*, PyObject* args);

}  // namespace tensorferry::stub
