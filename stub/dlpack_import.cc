#include <dlpack/dlpack.h>

#include <utility>

#include "cuda_array_interface.h"
#include "device_access.h"
#include "device_import.h"
#include "dlpack_exchange.h"
#include "memory_object.h"
#include "py_type.h"
#include "stub_state.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";
constexpr const char* kUsedName = "used_dltensor";
constexpr const char* kUsedVersionedName = "used_dltensor_versioned";

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

bool check_device(long type) {
  if (type == kDLCPU || type == kDLCUDAHost || type == kDLCUDA) return true;
  raise_model_exception("DLDevice type %ld is not support by Python backend.", type);
  return false;
}

// False with an exception set.
bool device_of(PyObject* object, DLDevice& device) {
  PyRef pair(PyObject_CallMethod(object, "__dlpack_device__", nullptr));
  PyRef type(pair ? PySequence_GetItem(pair.get(), 0) : nullptr);
  PyRef id(type ? PySequence_GetItem(pair.get(), 1) : nullptr);
  if (!id) return false;
  device.device_type = static_cast<DLDeviceType>(PyLong_AsLong(type.get()));
  device.device_id = static_cast<int>(PyLong_AsLong(id.get()));
  return !PyErr_Occurred() && check_device(device.device_type);
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

enum class Described : std::uint8_t { Yes, NotContiguous, No };

void raise_not_contiguous() {
  raise_model_exception(
      "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in "
      "C-Order "
      "are supported.");
}

// `made_on`: the stream that a device tensor was made on. An exception is set for `No`.
Described describe(const DLTensor& view, UsedStream made_on, Memory& memory) {
  if (!check_device(view.device.device_type)) return Described::No;
  memory.dtype = {static_cast<DTypeCode>(view.dtype.code), view.dtype.bits, view.dtype.lanes};
  if (triton_number(memory.dtype) == 0 || memory.dtype.is_bytes()) {
    raise_model_exception("Dtype is invalid.");
    return Described::No;
  }
  const bool on_device = view.device.device_type == kDLCUDA;
  if (!is_c_order(view) && !(on_device && keep_strides(view, memory)))
    return Described::NotContiguous;
  memory.shape.assign(view.shape, view.shape + view.ndim);
  memory.bytes = element_bytes(memory.dtype);
  for (std::int64_t dim : memory.shape) memory.bytes *= static_cast<std::size_t>(dim);
  memory.data = static_cast<std::byte*>(view.data) + view.byte_offset;
  if (on_device && !(memory.device = use_on(view.device.device_id, {made_on})))
    return Described::No;
  return Described::Yes;
}

// The tensor in a capsule, which keeps it. Nothing and an exception set where it is none.
std::optional<ForeignTensor> look_into(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kVersionedName)) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, kVersionedName));
    if (managed->version.major > DLPACK_MAJOR_VERSION) {
      PyErr_SetString(PyExc_BufferError, "the capsule is of a DLPack version that is too new");
      return std::nullopt;
    }
    return ForeignTensor{&managed->dl_tensor, (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0,
                         nullptr};
  }
  if (PyCapsule_IsValid(capsule, kName)) {
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kName));
    return ForeignTensor{&managed->dl_tensor, false, nullptr};
  }
  raise_model_exception("The DLPack capsule is of another kind, or was used already.");
  return std::nullopt;
}

// The capsule is of no more use.
std::shared_ptr<void> take_over(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kVersionedName)) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, kVersionedName));
    PyCapsule_SetName(capsule, kUsedVersionedName);
    return keeper_of(managed);
  }
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kName));
  PyCapsule_SetName(capsule, kUsedName);
  return keeper_of(managed);
}

// Each of these: nullptr without an exception where the tensor isn't contiguous.

// Takes the capsule's tensor over, if it can be used. A capsule says nothing of streams.
PyRef consume(PyObject* capsule) {
  auto tensor = look_into(capsule);
  Memory memory;
  if (!tensor || describe(*tensor->view, kAnyStream, memory) != Described::Yes) return {};
  memory.read_only = tensor->read_only;
  memory.foreign = take_over(capsule);
  return new_memory(std::move(memory));
}

PyRef import_stream_tensor(StreamTensor made) {
  Memory memory;
  if (describe(*made.tensor.view, made.made_on, memory) != Described::Yes) return {};
  memory.read_only = made.tensor.read_only;
  memory.foreign = std::move(made.tensor.keeper);
  return new_memory(std::move(memory));
}

PyRef import_from_device(PyObject* object, int ordinal) {
  if (auto made = by_exchange_api(object, ordinal)) return import_stream_tensor(std::move(*made));
  if (PyErr_Occurred()) return {};
  auto local = without_gil([&] { return state().link->devices().local(ordinal); });
  if (!local) {
    raise_error(local.error());
    return {};
  }
  PyRef capsule = capsule_on_our_stream(object, **local);
  return capsule ? consume(capsule.get()) : PyRef();
}

// What one copy can't pack the library itself can.
PyRef import_packed(PyObject* object, int ordinal) {
  PyRef memory = import_from_device(object, ordinal);
  if (memory || PyErr_Occurred() || !PyObject_HasAttrString(object, "contiguous")) return memory;
  PyRef packed(PyObject_CallMethod(object, "contiguous", nullptr));
  return packed ? import_from_device(packed.get(), ordinal) : PyRef();
}

PyRef import_object(PyObject* object) {
  DLDevice device;
  if (!device_of(object, device)) return {};
  PyRef plain = with_sign_applied(object);
  if (!plain) return {};
  if (device.device_type == kDLCUDA)
    return refuse_in_forked_child() ? import_packed(plain.get(), device.device_id) : PyRef();
  PyRef capsule = capsule_of(plain.get());
  return capsule ? consume(capsule.get()) : PyRef();
}

PyRef import_any(PyObject* source) {
  if (PyCapsule_CheckExact(source)) return consume(source);
  if (is_tensor(source) && is_on_device(as_tensor(source)))
    return PyRef::borrow(as_tensor(source)->memory);
  if (has_protocol(source)) return import_object(source);
  if (has_cuda_array_interface(source)) return memory_of_cuda_array(source);
  raise_model_exception(
      "Provided tensor is not supported. Tensor must be a DLPack capsule         or have "
      "`__dlpack__` and `__dlpack_device__` attributes");
  return {};
}

}  // namespace

PyObject* tensor_from_dlpack(PyObject*, PyObject* args) {
  PyObject *name = nullptr, *source = nullptr;
  if (!PyArg_ParseTuple(args, "UO:from_dlpack", &name, &source) || !check_name(name))
    return nullptr;
  PyRef memory = import_any(source);
  if (memory) return new_tensor(PyRef::borrow(name), std::move(memory)).release();
  if (!PyErr_Occurred()) raise_not_contiguous();
  return nullptr;
}

}  // namespace tensorferry::stub
