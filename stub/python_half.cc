#include "python_half.h"

#include "py_type.h"

namespace tensorferry::stub {

PythonHalf& python_half() noexcept {
  static PythonHalf half;
  return half;
}

PyObject* register_python_half(PyObject*, PyObject* args) {
  PythonHalf half;
  PyObject* model_exception = nullptr;
  if (!PyArg_ParseTuple(args, "OOOOOOO", &model_exception, &half.triton_error,
                        &half.request_arguments, &half.response_parameters, &half.to_json,
                        &half.trace, &half.find_input))
    return nullptr;
  set_model_exception(model_exception);
  Py_INCREF(args);  // and with it all that it names
  python_half() = half;
  Py_RETURN_NONE;
}

}  // namespace tensorferry::stub
