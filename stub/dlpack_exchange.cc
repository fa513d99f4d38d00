#include "dlpack_exchange.h"

#include <dlpack/dlpack.h>

#include <memory>
#include <vector>

#include "memory_object.h"
#include "numpy_api.h"
#include "py_type.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";
constexpr const char* kUsedName = "used_dltensor";
constexpr const char* kUsedVersionedName = "used_dltensor_versioned";

// ------------------------------------------------------------------------------------------ out

// A managed tensor and what it points at: the shape, and a reference to the Tensor.
template <class Managed>
struct Exported {
  Managed managed{};
  PyObject* tensor = nullptr;
  std::vector<std::int64_t> shape, strides;
};

// Consumers call it with or without the GIL.
template <class Managed>
void delete_exported(Managed* managed) {
  auto* exported = static_cast<Exported<Managed>*>(managed->manager_ctx);
  if (!Py_IsInitialized()) return;  // a consumer's static that outlived the interpreter
  PyGILState_STATE gil = PyGILState_Ensure();
  Py_DECREF(exported->tensor);
  PyGILState_Release(gil);
  delete exported;
}

template <class Managed>
void delete_capsule(PyObject* capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule, name)) return;  // a consumer took it over
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

// DLPack counts strides in elements. False with an exception set where they are no whole number of
// them (a field of a structured array).
bool fill_strides(const TensorObject* tensor, std::vector<std::int64_t>& strides) {
  if (tensor->array) {
    const numpy::Array* array = numpy::as_array(tensor->array);
    const auto element = static_cast<std::int64_t>(element_bytes(tensor->dtype));
    for (int i = 0; i < array->rank; ++i) {
      if (array->strides[i] % element != 0) {
        PyErr_SetString(PyExc_BufferError,
                        "the array's strides are no multiples of its element: copy it first");
        return false;
      }
      strides.push_back(array->strides[i] / element);
    }
    return true;
  }
  strides.assign(memory_of(tensor->memory).shape.size(), 1);
  for (std::size_t i = strides.size(); i-- > 1;)
    strides[i - 1] = strides[i] * memory_of(tensor->memory).shape[i];
  return true;
}

bool is_read_only(const TensorObject* tensor) {
  return tensor->array ? !numpy::is_writeable(*numpy::as_array(tensor->array))
                       : memory_of(tensor->memory).read_only;
}

template <class Managed>
PyObject* export_tensor(TensorObject* tensor, const char* name, PyCapsule_Destructor destructor) {
  if (tensor->dtype.is_bytes()) {
    raise_model_exception("DLPack does not have support for string tensors.");
    return nullptr;
  }
  if (!check_dtype(tensor)) return nullptr;
  auto exported = std::make_unique<Exported<Managed>>();
  const auto shape = tensor_shape(tensor);
  exported->shape.assign(shape.begin(), shape.end());
  if (!fill_strides(tensor, exported->strides)) return nullptr;
  DLTensor& view = exported->managed.dl_tensor;
  view.data = tensor->array ? static_cast<void*>(numpy::as_array(tensor->array)->data)
                            : memory_of(tensor->memory).data;
  view.device = {kDLCPU, 0};
  view.ndim = static_cast<int>(exported->shape.size());
  view.dtype = {static_cast<std::uint8_t>(tensor->dtype.code), tensor->dtype.bits,
                tensor->dtype.lanes};
  view.shape = exported->shape.data();
  view.strides = exported->strides.data();
  exported->managed.manager_ctx = exported.get();
  exported->managed.deleter = delete_exported<Managed>;
  PyObject* capsule = PyCapsule_New(&exported->managed, name, destructor);
  if (!capsule) return nullptr;
  exported->tensor = reinterpret_cast<PyObject*>(tensor);
  Py_INCREF(exported->tensor);
  (void)exported.release();
  return capsule;
}

PyObject* export_unversioned(TensorObject* tensor) {
  return export_tensor<DLManagedTensor>(
      tensor, kName, [](PyObject* capsule) { delete_capsule<DLManagedTensor>(capsule, kName); });
}

PyObject* export_versioned(TensorObject* tensor) {
  PyObject* capsule = export_tensor<DLManagedTensorVersioned>(
      tensor, kVersionedName,
      [](PyObject* one) { delete_capsule<DLManagedTensorVersioned>(one, kVersionedName); });
  if (!capsule) return nullptr;
  auto* managed =
      static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, kVersionedName));
  managed->version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  // The unversioned form cannot say it, and Triton's users hand read-only arrays on by it.
  if (is_read_only(tensor)) managed->flags |= DLPACK_FLAG_BITMASK_READ_ONLY;
  return capsule;
}

// False with an exception set where the pair is none.
bool read_pair(PyObject* pair, long& first, long& second) {
  if (PyTuple_Check(pair)) return PyArg_ParseTuple(pair, "ll", &first, &second) != 0;
  PyErr_SetString(PyExc_TypeError, "__dlpack__: max_version and dl_device are pairs of int");
  return false;
}

PyObject* refuse(const char* what) {
  PyErr_SetString(PyExc_BufferError, what);
  return nullptr;
}

// ------------------------------------------------------------------------------------------- in

// PyTorch's DLPack leaves out a sign that is not applied yet (Tensor.is_neg), without a word.
PyRef with_sign_applied(PyObject* object) {
  if (!PyObject_HasAttrString(object, "is_neg")) return PyRef::borrow(object);
  PyRef negative(PyObject_CallMethod(object, "is_neg", nullptr));
  if (!negative) return {};
  if (negative.get() != Py_True) return PyRef::borrow(object);
  return PyRef(PyObject_CallMethod(object, "resolve_neg", nullptr));
}

bool has_protocol(PyObject* object) {
  return PyObject_HasAttrString(object, "__dlpack__") &&
         PyObject_HasAttrString(object, "__dlpack_device__");
}

PyRef device_type_of(PyObject* object) {
  PyRef device(PyObject_CallMethod(object, "__dlpack_device__", nullptr));
  return device ? PyRef(PySequence_GetItem(device.get(), 0)) : PyRef();
}

bool check_device(long type) {
  if (type == kDLCPU || type == kDLCUDAHost) return true;
  raise_model_exception("DLDevice type %ld is not support by Python backend.", type);
  return false;
}

// The versioned capsule where the producer knows it: only that one can be of a read-only tensor.
PyRef capsule_of(PyObject* object) {
  PyRef method(PyObject_GetAttrString(object, "__dlpack__"));
  PyRef none(PyTuple_New(0));
  PyRef keywords(Py_BuildValue("{s:(ii)}", "max_version", DLPACK_MAJOR_VERSION, 0));
  if (!method || !none || !keywords) return {};
  PyRef capsule(PyObject_Call(method.get(), none.get(), keywords.get()));
  if (capsule || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
  PyErr_Clear();
  return PyRef(PyObject_CallObject(method.get(), nullptr));
}

// Dimensions of one element don't count: their strides mean nothing.
bool is_c_order(const DLTensor& view) {
  if (!view.strides) return true;
  std::int64_t expected = 1;
  for (int i = view.ndim; i-- > 0;) {
    if (view.shape[i] == 0) return true;
  }
  for (int i = view.ndim; i-- > 0;) {
    if (view.shape[i] != 1 && view.strides[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

bool describe(const DLTensor& view, Memory& memory) {
  if (!check_device(view.device.device_type)) return false;
  memory.dtype = {static_cast<DTypeCode>(view.dtype.code), view.dtype.bits, view.dtype.lanes};
  if (triton_number(memory.dtype) == 0 || memory.dtype.is_bytes()) {
    raise_model_exception("Dtype is invalid.");
    return false;
  }
  if (!is_c_order(view)) {
    raise_model_exception(
        "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in "
        "C-Order "
        "are supported.");
    return false;
  }
  memory.shape.assign(view.shape, view.shape + view.ndim);
  memory.bytes = element_bytes(memory.dtype);
  for (std::int64_t dim : memory.shape) memory.bytes *= static_cast<std::size_t>(dim);
  memory.data = static_cast<std::byte*>(view.data) + view.byte_offset;
  return true;
}

// Takes the capsule's tensor over, if it can be used.
PyRef consume(PyObject* capsule) {
  Memory memory;
  if (PyCapsule_IsValid(capsule, kVersionedName)) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, kVersionedName));
    if (managed->version.major > DLPACK_MAJOR_VERSION) {
      PyErr_SetString(PyExc_BufferError, "the capsule is of a DLPack version that is too new");
      return {};
    }
    if (!describe(managed->dl_tensor, memory)) return {};
    PyCapsule_SetName(capsule, kUsedVersionedName);
    memory.foreign_versioned = managed;
    memory.read_only = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  } else if (PyCapsule_IsValid(capsule, kName)) {
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kName));
    if (!describe(managed->dl_tensor, memory)) return {};
    PyCapsule_SetName(capsule, kUsedName);
    memory.foreign = managed;
  } else {
    raise_model_exception("The DLPack capsule is of another kind, or was used already.");
    return {};
  }
  return new_memory(std::move(memory));
}

}  // namespace

PyObject* tensor_to_dlpack(PyObject* self, PyObject*) {
  return export_unversioned(as_tensor(self));
}

PyObject* tensor_dlpack(PyObject* self, PyObject* args, PyObject* keywords) {
  PyObject *stream = Py_None, *version = Py_None, *device = Py_None, *copy = Py_None;
  static const char* names[] = {"stream", "max_version", "dl_device", "copy", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OOOO:__dlpack__", const_cast<char**>(names),
                                   &stream, &version, &device, &copy))
    return nullptr;
  long major = 0, minor = 0, device_type = kDLCPU, device_id = 0;
  if (version != Py_None && !read_pair(version, major, minor)) return nullptr;
  if (device != Py_None && !read_pair(device, device_type, device_id)) return nullptr;
  if (device_type != kDLCPU)
    return refuse("the tensor lies in CPU memory: let the consumer move it to another device");
  if (copy == Py_True) return refuse("the tensor is exported as it lies: copy the result instead");
  return major >= 1 ? export_versioned(as_tensor(self)) : export_unversioned(as_tensor(self));
}

PyObject* tensor_dlpack_device(PyObject*, PyObject*) { return Py_BuildValue("(ii)", kDLCPU, 0); }

PyObject* tensor_from_dlpack(PyObject*, PyObject* args) {
  PyObject *name = nullptr, *source = nullptr;
  if (!PyArg_ParseTuple(args, "UO:from_dlpack", &name, &source) || !check_name(name))
    return nullptr;
  PyRef capsule = PyRef::borrow(source);
  if (!PyCapsule_CheckExact(source)) {
    if (!has_protocol(source)) {
      raise_model_exception(
          "Provided tensor is not supported. Tensor must be a DLPack capsule         or have "
          "`__dlpack__` and `__dlpack_device__` attributes");
      return nullptr;
    }
    PyRef device = device_type_of(source);
    if (!device || !check_device(PyLong_AsLong(device.get()))) return nullptr;
    PyRef plain = with_sign_applied(source);
    if (!plain) return nullptr;
    capsule = capsule_of(plain.get());
    if (!capsule) return nullptr;
  }
  PyRef memory = consume(capsule.get());
  return memory ? new_tensor(PyRef::borrow(name), std::move(memory)).release() : nullptr;
}

}  // namespace tensorferry::stub
