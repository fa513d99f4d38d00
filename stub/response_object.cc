#include "response_object.h"

#include "py_type.h"
#include "python_half.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

PyTypeObject* response_type = nullptr;

PyObject* fail_tensors() {
  PyErr_SetString(PyExc_TypeError, "InferenceResponse(): output_tensors must be a list of Tensor");
  return nullptr;
}

// A list of its own, checked.
PyRef checked_tensors(PyObject* tensors) {
  if (tensors == Py_None || PyUnicode_Check(tensors) || PyBytes_Check(tensors) ||
      !PySequence_Check(tensors))
    return PyRef(fail_tensors());
  PyRef list(PySequence_List(tensors));
  const Py_ssize_t count = list ? PyList_Size(list.get()) : 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* tensor = PyList_GetItem(list.get(), i);
    if (tensor == Py_None) {
      raise_model_exception("Output tensor for inference response should not be empty.");
      return {};
    }
    if (!is_tensor(tensor)) return PyRef(fail_tensors());
  }
  return list;
}

PyRef checked_error(PyObject* error) {
  if (error != Py_None) {
    const int is_error = PyObject_IsInstance(error, python_half().triton_error);
    if (is_error < 0) return {};
    if (is_error == 0) {
      PyErr_SetString(PyExc_TypeError, "InferenceResponse(): error must be a TritonError");
      return {};
    }
  }
  return PyRef::borrow(error);
}

// (JSON text, items)
PyRef checked_parameters(PyObject* parameters) {
  static PyObject* none_given = Py_BuildValue("(s())", "{}");
  if (parameters == Py_None) return PyRef::borrow(none_given);
  return PyRef(
      PyObject_CallFunctionObjArgs(python_half().response_parameters, parameters, nullptr));
}

PyObject* response_new(PyTypeObject* type, PyObject* args, PyObject* keywords) {
  PyObject *tensors = nullptr, *error = Py_None, *parameters = Py_None;
  static const char* names[] = {"output_tensors", "error", "parameters", nullptr};
  if (!keywords && PyTuple_Size(args) == 1) {
    tensors = PyTuple_GetItem(args, 0);
  } else if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OOO:InferenceResponse",
                                          const_cast<char**>(names), &tensors, &error, &parameters))
    return nullptr;
  PyRef list = tensors ? checked_tensors(tensors) : PyRef(PyList_New(0));
  if (!list) return nullptr;
  PyRef held_error = checked_error(error);
  if (!held_error) return nullptr;
  PyRef checked = checked_parameters(parameters);
  PyObject *json = nullptr, *items = nullptr;
  if (!checked || !PyArg_ParseTuple(checked.get(), "UO!", &json, &PyTuple_Type, &items))
    return nullptr;
  PyObject* response = allocate_object(type);
  if (!response) return nullptr;
  as_response(response)->tensors = list.release();
  as_response(response)->error = held_error.release();
  as_response(response)->parameters = PyRef::borrow(json).release();
  as_response(response)->parameter_items = PyRef::borrow(items).release();
  return response;
}

void response_dealloc(PyObject* object) {
  ResponseObject* response = as_response(object);
  Py_XDECREF(response->tensors);
  Py_XDECREF(response->error);
  Py_XDECREF(response->parameters);
  Py_XDECREF(response->parameter_items);
  free_object(object);
}

PyObject* output_tensors(PyObject* self, PyObject*) {
  Py_INCREF(as_response(self)->tensors);
  return as_response(self)->tensors;
}

PyObject* has_error(PyObject* self, PyObject*) {
  return PyBool_FromLong(as_response(self)->error != Py_None);
}

PyObject* error(PyObject* self, PyObject*) {
  Py_INCREF(as_response(self)->error);
  return as_response(self)->error;
}

PyObject* parameters(PyObject* self, PyObject*) {
  Py_INCREF(as_response(self)->parameters);
  return as_response(self)->parameters;
}

PyMethodDef methods[] = {
    {"output_tensors", output_tensors, METH_NOARGS, "The output tensors, a list."},
    {"has_error", has_error, METH_NOARGS, "Whether it is an error."},
    {"error", error, METH_NOARGS, "The TritonError, or None."},
    {"parameters", parameters, METH_NOARGS, "A JSON object, as str."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool make_response_type(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(response_new)},
      {Py_tp_dealloc, reinterpret_cast<void*>(response_dealloc)},
      {Py_tp_methods, methods},
      {Py_tp_doc,
       const_cast<char*>("InferenceResponse(output_tensors=[], error=None, parameters=None)")},
      {0, nullptr}};
  PyType_Spec spec = {"c_python_backend_utils.InferenceResponse", sizeof(ResponseObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  response_type = add_type(module, "InferenceResponse", spec);
  return response_type != nullptr;
}

bool is_response(PyObject* object) noexcept { return PyObject_TypeCheck(object, response_type); }

}  // namespace tensorferry::stub
