#include "dlpack_exchange.h"

#include <tensorferry/transport/copy.h>

#include <memory>

#include "device_arrays.h"
#include "owner.h"

namespace tensorferry::python {
namespace {

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";

// ------------------------------------------------------------------------------------------- in

// What a library's own export gets wrong or refuses though a reader does not mind: a gradient, and
// PyTorch's sign that is not applied yet (its DLPack leaves it out without a word).
py::object plain(py::object value) {
  if (py::getattr(value, "requires_grad", py::none()).ptr() == Py_True)
    value = value.attr("detach")();
  if (py::hasattr(value, "is_neg") && value.attr("is_neg")().ptr() == Py_True)
    value = value.attr("resolve_neg")();
  return value;
}

void check_device(const py::object& value) {
  const auto device = value.attr("__dlpack_device__")().cast<py::sequence>();
  const int type = device[0].cast<int>();
  if (type == kDLCPU || type == kDLCUDAHost) return;
  throw py::buffer_error("the tensor lies on DLPack device type " + std::to_string(type) +
                         ": inputs are taken from CPU memory, so move it there first");
}

// The versioned capsule where the library knows it: only that one can be of a read-only tensor.
py::object capsule_of(const py::object& value, const py::dict& without) {
  const py::object method = value.attr("__dlpack__");
  py::dict options(**without);
  options["max_version"] = py::make_tuple(DLPACK_MAJOR_VERSION, 0);
  try {
    return method(**options);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return method(**without);
}

// ------------------------------------------------------------------------------------------ out

// A managed tensor and what it points at.
template <class Managed>
struct Exported {
  Managed managed{};
  py::object owner;
  std::vector<std::int64_t> strides;
};

// Consumers call it with or without the GIL, and some after the interpreter's end.
template <class Managed>
void delete_exported(Managed* managed) {
  if (!Py_IsInitialized()) return;
  py::gil_scoped_acquire held;
  delete static_cast<Exported<Managed>*>(managed->manager_ctx);
}

template <class Managed>
void delete_capsule(PyObject* capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule, name)) return;  // a consumer took it over
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

template <class Managed>
std::unique_ptr<Exported<Managed>> exported_over(const py::object& capsule) {
  auto exported = std::make_unique<Exported<Managed>>();
  exported->owner = capsule;
  Owner& owner = owner_in(capsule);
  exported->strides.assign(owner.shape.size(), 1);
  for (std::size_t i = owner.shape.size(); i-- > 1;)
    exported->strides[i - 1] = exported->strides[i] * owner.shape[i];
  DLTensor& tensor = exported->managed.dl_tensor;
  tensor.data = owner.buffer.bytes().data();
  const Device& device = owner.buffer.device();
  tensor.device = {owner.buffer.is_cpu() ? kDLCPU : kDLCUDA, device.id};
  tensor.ndim = static_cast<int>(owner.shape.size());
  tensor.dtype = {static_cast<std::uint8_t>(owner.dtype.code), owner.dtype.bits, owner.dtype.lanes};
  tensor.shape = owner.shape.data();
  tensor.strides = exported->strides.data();
  exported->managed.manager_ctx = exported.get();
  exported->managed.deleter = delete_exported<Managed>;
  return exported;
}

template <class Managed>
py::object to_capsule(std::unique_ptr<Exported<Managed>> exported, const char* name,
                      PyCapsule_Destructor destructor) {
  PyObject* capsule = PyCapsule_New(&exported->managed, name, destructor);
  if (!capsule) throw py::error_already_set();
  (void)exported.release();
  return py::reinterpret_steal<py::object>(capsule);
}

py::object copy_of(const Owner& owner) {
  auto copy = std::make_unique<Owner>();
  copy->dtype = owner.dtype;
  copy->shape = owner.shape;
  copy->buffer = server::Buffer::ordinary(owner.buffer.size());
  copy_payload(copy->buffer.bytes().data(), owner.buffer.bytes().data(), owner.buffer.size());
  return to_capsule(std::move(copy));
}

}  // namespace

bool ForeignTensor::is_one(const py::object& value) {
  return py::hasattr(value, "__dlpack__") && py::hasattr(value, "__dlpack_device__");
}

ForeignTensor::ForeignTensor(py::object value) {
  value = plain(std::move(value));
  check_device(value);
  capsule_ = capsule_of(value, {});
  read_capsule();
}

ForeignTensor::ForeignTensor(py::object value, std::uintptr_t stream) {
  py::dict options;
  options["stream"] = stream;
  capsule_ = capsule_of(plain(std::move(value)), options);
  read_capsule();
}

void ForeignTensor::read_capsule() {
  if (PyCapsule_IsValid(capsule_.ptr(), kVersionedName)) {
    auto* managed = static_cast<DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule_.ptr(), kVersionedName));
    if (managed->version.major > DLPACK_MAJOR_VERSION)
      throw py::buffer_error("the tensor's DLPack version is too new");
    describe(managed->dl_tensor);
  } else if (PyCapsule_IsValid(capsule_.ptr(), kName)) {
    describe(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), kName))->dl_tensor);
  } else {
    throw py::buffer_error("__dlpack__ gave no capsule that can be used");
  }
}

void ForeignTensor::describe(const DLTensor& tensor) {
  dtype_ = {static_cast<DTypeCode>(tensor.dtype.code), tensor.dtype.bits, tensor.dtype.lanes};
  const auto element = static_cast<std::int64_t>(element_bytes(dtype_));
  shape_.assign(tensor.shape, tensor.shape + tensor.ndim);
  strides_.resize(shape_.size());
  bytes_ = static_cast<std::size_t>(element);
  std::int64_t expected = element;
  for (std::size_t i = shape_.size(); i-- > 0;) {
    strides_[i] = tensor.strides ? tensor.strides[i] * element : expected;
    packed_ &= shape_[i] == 1 || strides_[i] == expected;
    expected *= shape_[i];
    bytes_ *= static_cast<std::size_t>(shape_[i]);
  }
  packed_ |= bytes_ == 0;
  data_ = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
}

py::object export_owner(const py::object& owner, const py::object& version, bool copy,
                        const py::object& stream) {
  if (!owner_in(owner).buffer.is_cpu()) {
    if (copy) throw py::buffer_error("a copy of a device tensor is its consumer's to make");
    use_on_stream(owner_in(owner), stream);
  }
  const bool read_only = owner_in(owner).given && !copy;
  const bool versioned = !version.is_none() && version.cast<py::tuple>()[0].cast<int>() >= 1;
  if (read_only && !versioned)
    throw py::buffer_error("the tensor was given to a request and is read-only since");
  const py::object source = copy ? copy_of(owner_in(owner)) : owner;
  if (!versioned) {
    return to_capsule(exported_over<DLManagedTensor>(source), kName,
                      [](PyObject* one) { delete_capsule<DLManagedTensor>(one, kName); });
  }
  auto exported = exported_over<DLManagedTensorVersioned>(source);
  exported->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  if (read_only) exported->managed.flags |= DLPACK_FLAG_BITMASK_READ_ONLY;
  if (copy) exported->managed.flags |= DLPACK_FLAG_BITMASK_IS_COPIED;
  return to_capsule(std::move(exported), kVersionedName, [](PyObject* one) {
    delete_capsule<DLManagedTensorVersioned>(one, kVersionedName);
  });
}

}  // namespace tensorferry::python
