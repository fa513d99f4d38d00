#include "foreign_tensor.h"

#include <utility>

namespace tensorferry::python {
namespace {

constexpr const char* kForeign = "dltensor";
constexpr const char* kForeignVersioned = "dltensor_versioned";

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
  if (PyCapsule_IsValid(capsule_.ptr(), kForeignVersioned)) {
    auto* managed = static_cast<DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule_.ptr(), kForeignVersioned));
    if (managed->version.major > DLPACK_MAJOR_VERSION)
      throw py::buffer_error("the tensor's DLPack version is too new");
    describe(managed->dl_tensor);
  } else if (PyCapsule_IsValid(capsule_.ptr(), kForeign)) {
    describe(
        static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), kForeign))->dl_tensor);
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

}  // namespace tensorferry::python
