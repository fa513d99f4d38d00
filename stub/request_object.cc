#include "request_object.h"

#include <new>

#include "py_type.h"
#include "python_half.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

PyTypeObject* request_type = nullptr;

struct RequestObject {
  PyObject_HEAD PyObject* inputs;  // list of Tensor
  PyObject* made;                  // of a request that the model made: (id, correlation, outputs,
                                   // timeout, parameters, trace, ...); nullptr for an inbound one
  InboundRequest inbound;
};

// What a model-made request keeps, in the order of `made`.
enum class Made : Py_ssize_t { Id, Correlation, Outputs, Timeout, Parameters, Trace };

RequestObject* as_request(PyObject* object) { return reinterpret_cast<RequestObject*>(object); }

PyObject* made_item(PyObject* self, Made which) {
  PyObject* item = PyTuple_GetItem(as_request(self)->made, static_cast<Py_ssize_t>(which));
  Py_XINCREF(item);
  return item;
}

PyRef allocate_request(PyTypeObject* type) {
  PyRef object(allocate_object(type));
  if (object) new (&as_request(object.get())->inbound) InboundRequest();
  return object;
}

// False with TypeError set, as pybind11's conversion has it.
bool read_flags(PyObject* value, std::uint32_t& flags) {
  const unsigned long number = PyLong_Check(value) ? PyLong_AsUnsignedLong(value) : UINT64_MAX;
  PyErr_Clear();
  if (number > UINT32_MAX) {
    PyErr_SetString(PyExc_TypeError, "InferenceRequest: flags must be an int of 32 bits");
    return false;
  }
  flags = static_cast<std::uint32_t>(number);
  return true;
}

// The Python half checks the arguments and puts them in order.
PyObject* request_new(PyTypeObject* type, PyObject* args, PyObject* keywords) {
  PyRef checked(PyObject_Call(python_half().request_arguments, args, keywords));
  if (!checked) return nullptr;
  PyRef object = allocate_request(type);
  if (!object) return nullptr;
  RequestObject* request = as_request(object.get());
  PyObject *inputs = nullptr, *flags = nullptr, *made = nullptr;
  if (!PyArg_ParseTuple(checked.get(), "OOO", &inputs, &flags, &made)) return nullptr;
  Py_INCREF(inputs);
  request->inputs = inputs;
  Py_INCREF(made);
  request->made = made;
  return read_flags(flags, request->inbound.flags) ? object.release() : nullptr;
}

void request_dealloc(PyObject* object) {
  RequestObject* request = as_request(object);
  Py_XDECREF(request->inputs);
  Py_XDECREF(request->made);
  request->inbound.~InboundRequest();
  free_object(object);
}

PyObject* inputs(PyObject* self, PyObject*) { return PySequence_List(as_request(self)->inputs); }

PyObject* request_id(PyObject* self, PyObject*) {
  if (as_request(self)->made) return made_item(self, Made::Id);
  return text(as_request(self)->inbound.id).release();
}

PyObject* correlation_id(PyObject* self, PyObject*) {
  if (as_request(self)->made) return made_item(self, Made::Correlation);
  const InboundRequest& request = as_request(self)->inbound;
  if (!request.correlation_text.empty()) return text(request.correlation_text).release();
  return PyLong_FromUnsignedLongLong(request.correlation);
}

PyObject* requested_output_names(PyObject* self, PyObject*) {
  if (as_request(self)->made) {
    PyRef names(made_item(self, Made::Outputs));
    return names ? PySet_New(names.get()) : nullptr;
  }
  PyRef names(PySet_New(nullptr));
  for (const std::string& name : as_request(self)->inbound.outputs) {
    PyRef item = text(name);
    if (!names || !item || PySet_Add(names.get(), item.get()) != 0) return nullptr;
  }
  return names.release();
}

PyObject* flags(PyObject* self, PyObject*) {
  return PyLong_FromUnsignedLong(as_request(self)->inbound.flags);
}

PyObject* set_flags(PyObject* self, PyObject* args, PyObject* keywords) {
  PyObject* value = nullptr;
  static const char* names[] = {"flags", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:set_flags", const_cast<char**>(names),
                                   &value) ||
      !read_flags(value, as_request(self)->inbound.flags))
    return nullptr;
  Py_RETURN_NONE;
}

PyObject* timeout(PyObject* self, PyObject*) {
  if (as_request(self)->made) return made_item(self, Made::Timeout);
  return PyLong_FromUnsignedLongLong(as_request(self)->inbound.timeout_us);
}

PyRef parameter_value(const Parameter& parameter) {
  switch (parameter.kind) {
    case protocol::ParameterKind::Int:
      return PyRef(PyLong_FromLongLong(parameter.integer));
    case protocol::ParameterKind::Bool:
      return PyRef(PyBool_FromLong(parameter.integer != 0));
    case protocol::ParameterKind::Double:
      return PyRef(PyFloat_FromDouble(parameter.number));
    case protocol::ParameterKind::String:
      return text(parameter.text);
  }
  return PyRef::borrow(Py_None);
}

PyObject* parameters(PyObject* self, PyObject*) {
  if (as_request(self)->made) return made_item(self, Made::Parameters);
  PyRef dict(PyDict_New());
  for (const Parameter& parameter : as_request(self)->inbound.parameters) {
    PyRef key = text(parameter.key);
    PyRef value = parameter_value(parameter);
    if (!dict || !key || !value || PyDict_SetItem(dict.get(), key.get(), value.get()) != 0)
      return nullptr;
  }
  return PyObject_CallFunctionObjArgs(python_half().to_json, dict.get(), nullptr);
}

PyObject* trace(PyObject* self, PyObject*) {
  if (as_request(self)->made) return made_item(self, Made::Trace);
  const std::string& context = as_request(self)->inbound.trace_context;
  PyRef argument = context.empty() ? PyRef::borrow(Py_None) : text(context);
  if (!argument) return nullptr;
  return PyObject_CallFunctionObjArgs(python_half().trace, argument.get(), nullptr);
}

PyObject* is_cancelled(PyObject* self, PyObject*) {
  // In a forked child nobody tells.
  if (as_request(self)->made || is_forked_child()) Py_RETURN_FALSE;
  return PyBool_FromLong(state().link->is_cancelled(as_request(self)->inbound.number));
}

PyMethodDef methods[] = {
    {"inputs", inputs, METH_NOARGS, "The input tensors, a list."},
    {"request_id", request_id, METH_NOARGS, "The client's name for the request; may be empty."},
    {"correlation_id", correlation_id, METH_NOARGS, "Of its sequence: int or str; 0 for none."},
    {"requested_output_names", requested_output_names, METH_NOARGS, "A set of str."},
    {"flags", flags, METH_NOARGS, "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END."},
    {"set_flags", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(set_flags)),
     METH_VARARGS | METH_KEYWORDS, "Sets the flags."},
    {"timeout", timeout, METH_NOARGS, "The request's timeout in microseconds; 0 for none."},
    {"parameters", parameters, METH_NOARGS, "A JSON object, as str."},
    {"trace", trace, METH_NOARGS, "An InferenceTrace."},
    {"is_cancelled", is_cancelled, METH_NOARGS, "Whether the caller gave the request up."},
    {nullptr, nullptr, 0, nullptr}};

PyRef input_tensor(InputTensor& input) {
  Memory memory;
  if (!input.memory.device) memory.data = input.memory.data;
  memory.bytes = input.memory.bytes;
  memory.dtype = input.dtype;
  memory.shape = std::move(input.shape);
  memory.device = input.memory.device;
  memory.input = std::move(input.memory);
  PyRef object = new_memory(std::move(memory));
  return object ? new_tensor(text(input.name), std::move(object)) : PyRef();
}

PyObject* find_by_name(PyObject* tensors, PyObject* name) {
  const Py_ssize_t count = PyList_Size(tensors);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* tensor = PyList_GetItem(tensors, i);
    if (is_tensor(tensor) && PyUnicode_Compare(as_tensor(tensor)->name, name) == 0) {
      Py_INCREF(tensor);
      return tensor;
    }
  }
  Py_RETURN_NONE;
}

}  // namespace

bool make_request_type(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(request_new)},
      {Py_tp_dealloc, reinterpret_cast<void*>(request_dealloc)},
      {Py_tp_methods, methods},
      {Py_tp_doc,
       const_cast<char*>("A request: as execute() gets it, or made by the model for a BLS call.")},
      {0, nullptr}};
  PyType_Spec spec = {"c_python_backend_utils.InferenceRequest", sizeof(RequestObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  request_type = add_type(module, "InferenceRequest", spec);
  return request_type != nullptr;
}

PyRef new_request(InboundRequest& request) {
  PyRef object = allocate_request(request_type);
  PyRef list(PyList_New(static_cast<Py_ssize_t>(request.inputs.size())));
  if (!object || !list) return {};
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    PyRef tensor = input_tensor(request.inputs[i]);
    if (!tensor) return {};
    PyList_SetItem(list.get(), static_cast<Py_ssize_t>(i), tensor.release());
  }
  request.inputs.clear();
  RequestObject* made = as_request(object.get());
  made->inputs = list.release();
  made->inbound = request;  // without the inputs; whoever answers needs the rest too
  return object;
}

PyObject* get_input_tensor(PyObject*, PyObject* args, PyObject* keywords) {
  PyObject *request = nullptr, *name = nullptr;
  static const char* names[] = {"inference_request", "name", nullptr};
  if (!keywords && PyTuple_Size(args) == 2) {
    request = PyTuple_GetItem(args, 0);
    name = PyTuple_GetItem(args, 1);
    if (Py_TYPE(request) == request_type && PyUnicode_Check(name))
      return find_by_name(as_request(request)->inputs, name);
  }
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "OU:get_input_tensor_by_name",
                                   const_cast<char**>(names), &request, &name))
    return nullptr;
  if (Py_TYPE(request) == request_type) return find_by_name(as_request(request)->inputs, name);
  return PyObject_CallFunctionObjArgs(python_half().find_input, request, name, nullptr);
}

}  // namespace tensorferry::stub
