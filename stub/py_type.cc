#include "py_type.h"

#include <cstdarg>

namespace tensorferry::stub {
namespace {

PyObject* model_exception = nullptr;

}  // namespace

PyTypeObject* add_type(PyObject* module, const char* name, PyType_Spec& spec) {
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) return nullptr;
  Py_INCREF(type);
  if (PyModule_AddObject(module, name, type) != 0) return nullptr;
  return reinterpret_cast<PyTypeObject*>(type);
}

PyObject* allocate_object(PyTypeObject* type) { return PyType_GenericAlloc(type, 0); }

void free_object(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  auto free = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
  free(object);
  Py_DECREF(type);
}

void set_model_exception(PyObject* type) {
  Py_INCREF(type);
  model_exception = type;
}

void raise_model_exception(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  PyErr_FormatV(model_exception ? model_exception : PyExc_RuntimeError, format, arguments);
  va_end(arguments);
}

}  // namespace tensorferry::stub
