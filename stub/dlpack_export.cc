#include <dlpack/dlpack.h>

#include <memory>
#include <vector>

#include "device_access.h"
#include "dlpack_exchange.h"
#include "memory_object.h"
#include "numpy_api.h"
#include "py_type.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";

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
  const Memory& memory = memory_of(tensor->memory);
  strides = memory.strides;
  if (!strides.empty()) return true;
  strides.assign(memory.shape.size(), 1);
  for (std::size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * memory.shape[i];
  return true;
}

bool is_read_only(const TensorObject* tensor) {
  return tensor->array ? !numpy::is_writeable(*numpy::as_array(tensor->array))
                       : memory_of(tensor->memory).read_only;
}

template <class Managed>
PyObject* export_tensor(TensorObject* tensor, DLDevice device, const char* name,
                        PyCapsule_Destructor destructor) {
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
  view.device = device;
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

PyObject* export_unversioned(TensorObject* tensor, DLDevice device) {
  return export_tensor<DLManagedTensor>(tensor, device, kName, [](PyObject* capsule) {
    delete_capsule<DLManagedTensor>(capsule, kName);
  });
}

PyObject* export_versioned(TensorObject* tensor, DLDevice device) {
  PyObject* capsule = export_tensor<DLManagedTensorVersioned>(
      tensor, device, kVersionedName,
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

// Where its memory lies, opened if need be. False with an exception set.
bool find_device(TensorObject* tensor, DLDevice& device) {
  device = {kDLCPU, 0};
  if (!is_on_device(tensor)) return true;
  Memory& memory = memory_of(tensor->memory);
  if (!reach(memory)) return false;
  device = {kDLCUDA, memory.device->local->ordinal()};
  return true;
}

}  // namespace

// No stream is named: whoever takes the capsule may use any, at once.
PyObject* tensor_to_dlpack(PyObject* self, PyObject*) {
  TensorObject* tensor = as_tensor(self);
  DLDevice device;
  if (!find_device(tensor, device)) return nullptr;
  if (device.device_type == kDLCUDA &&
      !admit_any_stream(memory_of(tensor->memory), cuda::WaitReason::BareCapsule))
    return nullptr;
  return export_unversioned(tensor, device);
}

PyObject* tensor_dlpack(PyObject* self, PyObject* args, PyObject* keywords) {
  PyObject *stream = Py_None, *version = Py_None, *wanted = Py_None, *copy = Py_None;
  static const char* names[] = {"stream", "max_version", "dl_device", "copy", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OOOO:__dlpack__", const_cast<char**>(names),
                                   &stream, &version, &wanted, &copy))
    return nullptr;
  TensorObject* tensor = as_tensor(self);
  DLDevice device;
  if (!find_device(tensor, device)) return nullptr;
  long major = 0, minor = 0, type = device.device_type, id = device.device_id;
  if (version != Py_None && !read_pair(version, major, minor)) return nullptr;
  if (wanted != Py_None && !read_pair(wanted, type, id)) return nullptr;
  if (type != device.device_type || (type == kDLCUDA && id != device.device_id)) {
    return refuse(device.device_type == kDLCPU
                      ? "the tensor lies in CPU memory: let the consumer move it to another device"
                      : "the tensor lies on another device: let the consumer move it, or read it "
                        "by as_numpy()");
  }
  if (copy == Py_True) return refuse("the tensor is exported as it lies: copy the result instead");
  if (device.device_type == kDLCUDA && !admit_consumer(memory_of(tensor->memory), stream))
    return nullptr;
  return major >= 1 ? export_versioned(tensor, device) : export_unversioned(tensor, device);
}

PyObject* tensor_dlpack_device(PyObject* self, PyObject*) {
  TensorObject* tensor = as_tensor(self);
  if (!is_on_device(tensor)) return Py_BuildValue("(ii)", kDLCPU, 0);
  const auto ordinal = ordinal_of(memory_of(tensor->memory));
  return ordinal ? Py_BuildValue("(ii)", kDLCUDA, *ordinal) : nullptr;
}

}  // namespace tensorferry::stub
