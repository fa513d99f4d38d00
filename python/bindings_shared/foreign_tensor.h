// Other libraries' tensors, read by DLPack: NumPy would refuse some of them. Sources: the DLPack
// specification 1.x and the array API standard.
#pragma once

#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>
#include <tensorferry/transport/dtype.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tensorferry::python {

namespace py = pybind11;

// A tensor of another library, read and never written, for as long as this lives.
class ForeignTensor {
 public:
  // True where the object has the protocol; nothing of it is called.
  static bool is_one(const py::object& value);
  // Raises what the library raises, and BufferError where it lies on another device.
  explicit ForeignTensor(py::object value);
  // The same of one in device memory: `stream` (DLPack's number) finds it complete.
  ForeignTensor(py::object value, std::uintptr_t stream);

  DType dtype() const noexcept { return dtype_; }  // perhaps one that does not cross
  const std::vector<std::int64_t>& shape() const noexcept { return shape_; }
  const std::vector<std::int64_t>& strides_bytes() const noexcept { return strides_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }
  bool is_packed() const noexcept { return packed_; }
  const py::object& capsule() const noexcept { return capsule_; }

 private:
  void read_capsule();
  void describe(const DLTensor& tensor);

  py::object capsule_;  // never marked as used: its own destructor ends the tensor
  DType dtype_;
  std::vector<std::int64_t> shape_, strides_;
  const std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool packed_ = true;
};

}  // namespace tensorferry::python
