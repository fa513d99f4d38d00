#include "device_tensor.h"

#include <bindings_shared/dlpack_export.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <tensorferry/cuda/device_side.h>
#include <tensorferry/cuda/pointer_info.h>

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "arrays.h"

namespace tensorferry {
namespace {

using Exported = python::ExportedMemory;

// Another thread's per-thread stream is another one: it goes by all that is on the device.
DeviceStream as_used(DeviceStream stream) {
  return stream == cuda::per_thread_stream() ? nullptr : stream;
}

Exported exported(const py::object& self) {
  auto& tensor = self.cast<DeviceTensor&>();
  return {tensor.memory().bytes().data(),
          tensor.device(),
          tensor.dtype(),
          tensor.shape(),
          false,
          false,
          self};
}

// Of what is received all is complete; what the consumer puts on its stream counts later.
void use_on(const py::object& self, const py::object& stream) {
  if (const auto named = python::consumers_stream(stream))
    self.cast<DeviceTensor&>().memory().use_on(as_used(*named));
}

py::tuple dlpack_device(const DeviceTensor& tensor) {
  constexpr int kDLCuda = 2;
  return py::make_tuple(kDLCuda, tensor.device().id);
}

std::string place_of(const DeviceTensor& tensor) {
  return "cuda:" + std::to_string(tensor.device().id);
}

py::object to_dlpack(const py::object& self, const py::object& stream, const py::object& version,
                     const py::object& device, const py::object& copy) {
  const auto& tensor = self.cast<DeviceTensor&>();
  if (!device.is_none() && !py::tuple(device).equal(dlpack_device(tensor)))
    throw py::buffer_error("the tensor lies on " + place_of(tensor) +
                           ": let the consumer move it to another device");
  if (!copy.is_none() && copy.cast<bool>())
    throw py::buffer_error("a copy of a device tensor is its consumer's to make");
  use_on(self, stream);
  return python::to_dlpack(exported(self), version);
}

py::dict to_array_interface(const py::object& self) {
  const py::dict interface = python::to_cuda_array_interface(exported(self));
  use_on(self, py::none());  // which is what it tells its consumer
  return interface;
}

py::array to_numpy(DeviceTensor& tensor) {
  SharedBytes& memory = tensor.memory();
  auto owner = std::make_unique<Owner>();
  owner->small.resize(memory.bytes().size());
  const std::span<std::byte> bytes = owner->small;
  if (!bytes.empty()) {
    Result<void> copied;
    {
      py::gil_scoped_release released;
      copied = cuda::copy_to_host(bytes, memory);
    }
    value_of(std::move(copied));
  }
  return array_over(std::move(owner), bytes, tensor.dtype(), tensor.shape());
}

// From memory that isn't pinned the driver takes the bytes before it returns.
void copy_from(DeviceTensor& tensor, const py::array& array) {
  SharedBytes& memory = tensor.memory();
  const bool same_shape =
      std::ranges::equal(std::span(array.shape(), array.ndim()), tensor.shape());
  if (!same_shape || dtype_of(array.dtype()) != tensor.dtype()) {
    throw py::value_error("an array of shape " + std::string(py::str(array.attr("shape"))) +
                          " and dtype " + std::string(py::str(array.dtype())) + " is none of " +
                          std::string(py::str(py::tuple(py::cast(tensor.shape())))) + " and " +
                          to_string(tensor.dtype()));
  }
  const py::array packed = py::array::ensure(array, py::array::c_style);
  if (!packed) throw py::error_already_set();
  if (packed.nbytes() == 0) return;
  const std::span bytes(static_cast<const std::byte*>(packed.data()),
                        static_cast<std::size_t>(packed.nbytes()));
  Result<void> copied;
  {
    py::gil_scoped_release released;
    copied = cuda::copy_from_host(memory, bytes);
  }
  value_of(std::move(copied));
}

py::object to_array(DeviceTensor& tensor, const py::object& dtype, const py::object& copy) {
  if (!copy.is_none() && !copy.cast<bool>())
    throw py::value_error("a tensor on " + place_of(tensor) + " is no array without a copy");
  py::object array = to_numpy(tensor);
  if (dtype.is_none()) return array;
  return array.attr("astype")(dtype, py::arg("copy") = false);
}

}  // namespace

SharedBytes& DeviceTensor::memory(const std::string& name) {
  if (given_) {
    throw py::value_error((name.empty() ? "the tensor" : "tensor '" + name + "'") +
                          " was given by an earlier send: make a new one with empty()");
  }
  return memory_;
}

SharedBytes DeviceTensor::give() {
  given_ = true;
  return std::exchange(memory_, {});
}

void DeviceTensor::take_back(SharedBytes memory) {
  given_ = false;
  memory_ = std::move(memory);
}

SharedBytes allocate_on(Endpoint& endpoint, int ordinal, std::size_t bytes) {
  Result<SharedBytes> memory;
  {
    py::gil_scoped_release released;
    memory = endpoint.allocate_on(ordinal, bytes);
  }
  return value_of(std::move(memory));
}

EndpointTensor copy_from_device(Endpoint& endpoint, const std::string& name,
                                const py::object& value, std::optional<DeviceStream> stream) {
  const python::DeviceQuestions ask{
      [](int ordinal) {
        return reinterpret_cast<std::uintptr_t>(value_of(cuda::stream_on(ordinal)));
      },
      [](std::uintptr_t address) { return value_of(cuda::classify(address)).ordinal; }};
  python::DeviceTensorSource read = python::read_device_tensor(value, stream, ask);
  if (!is_supported(read.dtype)) {
    throw py::type_error("tensor '" + name + "' has dtype " + to_string(read.dtype) +
                         ", which does not cross: send its bytes as uint8");
  }
  if (!read.is_packed) python::refuse_strides();
  EndpointTensor tensor;
  tensor.name = name;
  tensor.dtype = read.dtype;
  tensor.shape = std::move(read.shape);
  tensor.shared = allocate_on(endpoint, read.device, read.memory.bytes);
  if (read.memory.bytes == 0) return tensor;
  Result<void> copied;
  {
    py::gil_scoped_release released;
    copied = cuda::copy_in(tensor.shared, read.memory);
    if (copied && read.finish) copied = cuda::finish(read.device);
  }
  value_of(std::move(copied));
  return tensor;
}

void bind_device_tensor(py::module_& module) {
  py::class_<DeviceTensor>(
      module, "DeviceTensor",
      "A tensor in device memory: made by Channel.empty, or received. It is complete; its memory "
      "is "
      "sent on, or used anew, after the work that its consumers have put on the streams that they "
      "named by then.")
      .def_property_readonly("dtype",
                             [](const DeviceTensor& tensor) { return to_string(tensor.dtype()); })
      .def_property_readonly(
          "shape", [](const DeviceTensor& tensor) { return py::tuple(py::cast(tensor.shape())); })
      .def_property_readonly("device", &place_of)
      .def("numpy", &to_numpy, "A copy in CPU memory, each time. Waits for the device.")
      .def("copy_from", &copy_from, py::arg("array"),
           "Fills it with an array of its shape and dtype, after its consumers' work. The array is "
           "free "
           "again when this returns.")
      .def("__array__", &to_array, py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__", &dlpack_device)
      .def_property_readonly("__cuda_array_interface__", &to_array_interface)
      .def("__repr__", [](const DeviceTensor& tensor) {
        return "DeviceTensor(dtype=" + to_string(tensor.dtype()) +
               ", shape=" + std::string(py::str(py::tuple(py::cast(tensor.shape())))) +
               ", device='" + place_of(tensor) + "')";
      });
}

}  // namespace tensorferry
