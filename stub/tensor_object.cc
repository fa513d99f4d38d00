#include "tensor_object.h"

#include <cstddef>

#include "byte_strings.h"
#include "cuda_array_interface.h"
#include "device_access.h"
#include "dlpack_exchange.h"
#include "numpy_api.h"
#include "py_type.h"
#include "stub_state.h"

namespace tensorferry::stub {
namespace {

PyTypeObject* tensor_type = nullptr;

PyObject* fail_arguments() {
  PyErr_SetString(PyExc_TypeError,
                  "Tensor(): incompatible arguments: a str and a numpy.ndarray are needed");
  return nullptr;
}

PyObject* tensor_new(PyTypeObject* type, PyObject* args, PyObject* keywords) {
  if (PyTuple_Size(args) != 2 || (keywords && PyDict_Size(keywords) != 0)) return fail_arguments();
  PyObject* name = PyTuple_GetItem(args, 0);
  PyObject* object = PyTuple_GetItem(args, 1);
  if (!PyUnicode_Check(name) || !numpy::load())
    return PyErr_Occurred() ? nullptr : fail_arguments();
  const numpy::Array* array = numpy::as_array(object);
  if (!array) return fail_arguments();
  if (!check_name(name)) return nullptr;
  auto dtype = numpy::dtype_of(*array);
  if (!dtype) {
    raise_model_exception("NumPy dtype is not supported.");
    return nullptr;
  }
  PyObject* tensor = allocate_object(type);
  if (!tensor) return nullptr;
  Py_INCREF(name);
  Py_INCREF(object);
  as_tensor(tensor)->name = name;
  as_tensor(tensor)->array = object;
  as_tensor(tensor)->dtype = *dtype;
  return tensor;
}

void tensor_dealloc(PyObject* object) {
  TensorObject* tensor = as_tensor(object);
  if (tensor->weak_references) PyObject_ClearWeakRefs(object);
  Py_XDECREF(tensor->name);
  Py_XDECREF(tensor->array);
  Py_XDECREF(tensor->memory);
  Py_XDECREF(tensor->host_copy);
  free_object(object);
}

PyObject* tensor_name(PyObject* self, PyObject*) {
  Py_INCREF(as_tensor(self)->name);
  return as_tensor(self)->name;
}

PyObject* tensor_shape_list(PyObject* self, PyObject*) {
  const auto shape = tensor_shape(as_tensor(self));
  PyRef list(PyList_New(static_cast<Py_ssize_t>(shape.size())));
  for (std::size_t i = 0; list && i < shape.size(); ++i)
    PyList_SetItem(list.get(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(shape[i]));
  return list.release();
}

PyObject* tensor_triton_dtype(PyObject* self, PyObject*) {
  return PyLong_FromLong(triton_number(as_tensor(self)->dtype));
}

PyObject* tensor_is_cpu(PyObject* self, PyObject*) {
  return PyBool_FromLong(!is_on_device(as_tensor(self)));
}

PyObject* tensor_as_numpy(PyObject* self, PyObject*) {
  PyObject* array = tensor_array(as_tensor(self));
  Py_XINCREF(array);
  return array;
}

PyObject* tensor_repr(PyObject* self) {
  PyRef shape(tensor_shape_list(self, nullptr));
  if (!shape) return nullptr;
  const std::string dtype = to_string(as_tensor(self)->dtype);
  return PyUnicode_FromFormat("<Tensor %R %s %R>", as_tensor(self)->name, dtype.c_str(),
                              shape.get());
}

PyMethodDef methods[] = {
    {"name", tensor_name, METH_NOARGS, "The tensor's name."},
    {"shape", tensor_shape_list, METH_NOARGS, "A list of int."},
    {"triton_dtype", tensor_triton_dtype, METH_NOARGS, "The TRITONSERVER_DataType number."},
    {"is_cpu", tensor_is_cpu, METH_NOARGS, "Whether its memory can be read by the CPU."},
    {"as_numpy", tensor_as_numpy, METH_NOARGS,
     "The same array every time: of an input, a writable view of its own memory; of a tensor on a "
     "device, a copy."},
    {"to_dlpack", tensor_to_dlpack, METH_NOARGS, "A DLPack capsule over the same memory."},
    {"from_dlpack", tensor_from_dlpack, METH_VARARGS | METH_STATIC,
     "A tensor over another library's memory: a capsule, or an object with __dlpack__."},
    {"__dlpack__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(tensor_dlpack)),
     METH_VARARGS | METH_KEYWORDS,
     "The DLPack protocol; without max_version the unversioned form."},
    {"__dlpack_device__", tensor_dlpack_device, METH_NOARGS, "(device type, device id)"},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef attributes[] = {{"__cuda_array_interface__", cuda_array_interface, nullptr,
                             "Its memory on a device, for Numba, CuPy and PyTorch.", nullptr},
                            {nullptr, nullptr, nullptr, nullptr, nullptr}};

constexpr int kReadOnlyMember = 1, kSsizeMember = 19;  // READONLY, T_PYSSIZET of structmember.h
struct Member {
  const char* name;
  int type;
  Py_ssize_t offset;
  int flags;
  const char* doc;
};
Member members[] = {{"__weaklistoffset__", kSsizeMember, offsetof(TensorObject, weak_references),
                     kReadOnlyMember, nullptr},
                    {nullptr, 0, 0, 0, nullptr}};

}  // namespace

bool make_tensor_type(PyObject* module) {
  PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(tensor_new)},
                         {Py_tp_dealloc, reinterpret_cast<void*>(tensor_dealloc)},
                         {Py_tp_repr, reinterpret_cast<void*>(tensor_repr)},
                         {Py_tp_methods, methods},
                         {Py_tp_getset, attributes},
                         {Py_tp_members, members},
                         {Py_tp_doc, const_cast<char*>("Tensor(name, numpy_array)")},
                         {0, nullptr}};
  PyType_Spec spec = {"c_python_backend_utils.Tensor", sizeof(TensorObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  tensor_type = add_type(module, "Tensor", spec);
  return tensor_type != nullptr;
}

bool is_tensor(PyObject* object) noexcept { return PyObject_TypeCheck(object, tensor_type); }

bool check_name(PyObject* name) {
  if (PyUnicode_GetLength(name) != 0) return true;
  raise_model_exception("Tensor name cannot be an empty string.");
  return false;
}

PyRef new_tensor(PyRef name, PyRef memory) {
  PyRef tensor(allocate_object(tensor_type));
  if (!tensor) return tensor;
  as_tensor(tensor.get())->name = name.release();
  as_tensor(tensor.get())->dtype = memory_of(memory.get()).dtype;
  as_tensor(tensor.get())->memory = memory.release();
  return tensor;
}

PyObject* tensor_array(TensorObject* tensor) {
  if (tensor->array) return tensor->array;
  const bool on_device = is_on_device(tensor);
  if (on_device && state().strict) {
    raise_model_exception("Tensor is stored in GPU and cannot be converted to NumPy.");
    return nullptr;
  }
  if (tensor->host_copy) return tensor->host_copy;
  if (tensor->dtype == kBfloat16) {
    raise_model_exception(
        "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() "
        "instead.");
    return nullptr;
  }
  if (on_device) {
    PyRef copy = array_of_device(memory_of(tensor->memory));
    if (!tensor->host_copy)
      tensor->host_copy = copy.release();  // another thread may have been here
    return tensor->host_copy;
  }
  PyRef array = tensor->dtype.is_bytes() ? decode_byte_strings(memory_of(tensor->memory))
                                         : array_over_memory(tensor->memory);
  if (!array) return nullptr;
  tensor->array = array.release();
  Py_XDECREF(std::exchange(tensor->memory, nullptr));
  return tensor->array;
}

bool check_dtype(const TensorObject* tensor) {
  if (!tensor->array || numpy::dtype_of(*numpy::as_array(tensor->array)) == tensor->dtype)
    return true;
  raise_model_exception("NumPy dtype is not supported. Tensor '%U' had another when it was made.",
                        tensor->name);
  return false;
}

std::span<const std::int64_t> tensor_shape(const TensorObject* tensor) {
  if (!tensor->array) return memory_of(tensor->memory).shape;
  const numpy::Array* array = numpy::as_array(tensor->array);
  static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
  return {reinterpret_cast<const std::int64_t*>(array->shape),
          static_cast<std::size_t>(array->rank)};
}

}  // namespace tensorferry::stub
