// Tensors in device memory for Python: ours for other libraries, other libraries' to be sent.
#pragma once

#include <bindings_shared/device_source.h>
#include <pybind11/pybind11.h>
#include <tensorferry/transport/endpoint.h>

#include <optional>
#include <string>
#include <vector>

namespace tensorferry {

namespace py = pybind11;

// Memory of an end, or one that was received. Once it is given by a send, nothing is left of it
// here. The GIL guards it.
class DeviceTensor {
 public:
  DeviceTensor(SharedBytes memory, DType dtype, std::vector<std::int64_t> shape)
      : memory_(std::move(memory)),
        dtype_(dtype),
        shape_(std::move(shape)),
        device_(memory_.device()) {}

  const DType& dtype() const noexcept { return dtype_; }
  const std::vector<std::int64_t>& shape() const noexcept { return shape_; }
  const Device& device() const noexcept { return device_; }
  // Raises ValueError where it was given; `name` is what it is sent as.
  SharedBytes& memory(const std::string& name = {});
  // It is sent: whoever sends has the memory.
  SharedBytes give();
  void take_back(SharedBytes memory);

 private:
  SharedBytes memory_;
  DType dtype_;
  std::vector<std::int64_t> shape_;
  Device device_;
  bool given_ = false;
};

// Device memory of the end. Without the GIL meanwhile.
SharedBytes allocate_on(Endpoint& endpoint, int ordinal, std::size_t bytes);
// Another library's tensor, copied on the stream that the caller names or its library works on,
// where that tells; else on one of ours, and this waits for it.
EndpointTensor copy_from_device(Endpoint& endpoint, const std::string& name,
                                const py::object& value, std::optional<DeviceStream> stream);

void bind_device_tensor(py::module_& module);

}  // namespace tensorferry
