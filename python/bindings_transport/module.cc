// tensorferry._transport: one end of a connection (transport/endpoint.h) for NumPy.
// tensorferry/transport.py is the face that users see.
#include <pybind11/stl.h>
#include <tensorferry/cuda/device_side.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/protocol.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "device_tensor.h"

namespace tensorferry {
namespace {

// How long a call blocks at most before it looks for signals (Ctrl-C).
constexpr std::chrono::milliseconds kSlice{100};

Deadline deadline_of(std::optional<double> timeout) {
  constexpr double kForEver = 1e9;  // seconds; more would overflow the clock
  if (!timeout || *timeout > kForEver) return {};
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*timeout));
}

Deadline slice_of(const Deadline& deadline) {
  const auto slice = Clock::now() + kSlice;
  return deadline && *deadline < slice ? deadline : slice;
}

void look_for_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// The tensors of one send(). Arrays of ours are given: read-only from now on, and as they were
// before unless the message is sent.
class Parcel {
 public:
  Parcel(Endpoint& endpoint, std::optional<DeviceStream> stream)
      : endpoint_(endpoint), stream_(stream) {}
  Parcel(const Parcel&) = delete;
  Parcel& operator=(const Parcel&) = delete;
  ~Parcel() {
    if (sent) return;
    for (Gift& gift : gifts_) {
      gift.owner->shared = std::move(tensors[gift.tensor].shared);
      set_writeable(gift.array, gift.was_writeable);
    }
    for (auto& [owner, tensor] : device_gifts_)
      owner.cast<DeviceTensor&>().take_back(std::move(tensors[tensor].shared));
  }

  void add(const std::string& name, const py::object& value) {
    if (py::isinstance<DeviceTensor>(value)) return give_device(name, value);
    if (!py::isinstance<py::array>(value) && python::is_on_device(value))
      return borrow_device(name, value);
    py::array array = py::array::ensure(value);
    if (!array) throw py::type_error("tensor '" + name + "' is no array");
    EndpointTensor& tensor = tensors.emplace_back();
    tensor.name = name;
    tensor.dtype = dtype_of(array.dtype());
    tensor.shape.assign(array.shape(), array.shape() + array.ndim());
    if (!give(array, tensor)) borrow(std::move(array), tensor);
  }

  std::vector<EndpointTensor> tensors;
  bool sent = false;

 private:
  struct Gift {
    Owner* owner;
    py::array array;
    std::size_t tensor;
    bool was_writeable;
  };

  // False where it is not ours to give, or given by this message already: then it is copied.
  bool give(const py::array& array, EndpointTensor& tensor) {
    Owner* owner = owner_of(array);
    if (!owner) return false;
    for (const Gift& gift : gifts_) {
      if (gift.owner == owner) return false;
    }
    if (!owner->shared) {
      throw py::value_error("tensor '" + tensor.name +
                            "' was given by an earlier send: make a new array with empty()");
    }
    if (!endpoint_.knows(owner->shared)) return false;
    gifts_.push_back({owner, array, tensors.size() - 1, is_writeable(array)});
    set_writeable(array, false);
    tensor.shared = std::move(owner->shared);
    return true;
  }

  // Bytes that are copied while it is sent; a strided array is packed by NumPy, as the one copy.
  void borrow(py::array array, EndpointTensor& tensor) {
    const auto bytes = static_cast<std::size_t>(array.nbytes());
    if ((array.flags() & py::array::c_style) == 0 && bytes >= protocol::kInlineBelowBytes) {
      tensor.shared = value_of(endpoint_.allocate(bytes));
      py::array packed = view_of(tensor.shared.bytes(), tensor.dtype, tensor.shape);
      py::module_::import("numpy").attr("copyto")(packed, array);
      count_copy(bytes, CopyKind::Host);
      return;
    }
    array = py::array::ensure(array, py::array::c_style);
    if (!array) throw py::error_already_set();
    tensor.plain = {static_cast<const std::byte*>(array.data()), bytes};
    kept_.push_back(std::move(array));
  }

  // One of another end's, or given by this message already, is copied.
  void give_device(const std::string& name, const py::object& value) {
    auto& owner = value.cast<DeviceTensor&>();
    EndpointTensor& tensor = tensors.emplace_back();
    tensor.name = name;
    tensor.dtype = owner.dtype();
    tensor.shape = owner.shape();
    for (const auto& [given, at] : device_gifts_) {
      if (given.is(value)) {
        tensor.shared = tensors[at].shared;
        return;
      }
    }
    SharedBytes& memory = owner.memory(name);
    if (stream_) memory.use_on(*stream_);
    tensor.shared = memory;
    if (!memory || !endpoint_.knows(memory)) return;
    (void)owner.give();
    device_gifts_.emplace_back(value, tensors.size() - 1);
  }

  // Another library's: one copy on the device.
  void borrow_device(const std::string& name, const py::object& value) {
    EndpointTensor tensor = copy_from_device(endpoint_, name, value, stream_);
    tensors.push_back(std::move(tensor));
  }

  Endpoint& endpoint_;
  const std::optional<DeviceStream> stream_;  // that the caller works with device tensors on
  std::vector<Gift> gifts_;
  std::vector<std::pair<py::object, std::size_t>> device_gifts_;
  std::vector<py::array> kept_;  // alive until their bytes are copied
};

class End {
 public:
  explicit End(std::unique_ptr<Endpoint> endpoint) : endpoint_(std::move(endpoint)) {}
  // Its threads may need the GIL for nothing, but are waited for.
  ~End() {
    py::gil_scoped_release released;
    endpoint_.reset();
  }
  End(const End&) = delete;
  End& operator=(const End&) = delete;

  static std::unique_ptr<End> create_on(int fd, std::size_t max_bytes) {
    EndpointOptions options;
    options.arena.max_bytes = max_bytes;
    options.devices = cuda::device_side();
    return std::make_unique<End>(value_of(Endpoint::create_on(UniqueFd(fd), options)));
  }
  static std::unique_ptr<End> connect(int fd, std::optional<double> timeout) {
    Result<std::unique_ptr<Endpoint>> end;
    {
      py::gil_scoped_release released;
      end = Endpoint::connect(UniqueFd(fd), deadline_of(timeout), cuda::device_side());
    }
    return std::make_unique<End>(value_of(std::move(end)));
  }

  py::object empty(const std::vector<std::int64_t>& shape, const py::dtype& dtype,
                   const py::object& device) {
    DType type = dtype_of(dtype);
    std::size_t bytes = element_bytes(type);
    for (std::int64_t dim : shape) {
      if (dim < 0) throw py::value_error("a dimension is negative");
      if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(dim), &bytes))
        throw py::value_error("the shape is too large");
    }
    if (const auto ordinal = python::cuda_ordinal(device))
      return py::cast(
          std::make_unique<DeviceTensor>(allocate_on(*endpoint_, *ordinal, bytes), type, shape));
    auto owner = std::make_unique<Owner>();
    auto memory = [&] {
      py::gil_scoped_release released;
      return endpoint_->allocate(bytes);
    }();
    owner->shared = value_of(std::move(memory));
    owner->mapping = owner->shared.mapping();
    std::span<std::byte> range = owner->shared.bytes();
    return array_over(std::move(owner), range, type, shape);
  }

  void send(const py::dict& tensors, std::uint64_t tag, std::optional<double> timeout,
            const py::object& stream) {
    const Deadline deadline = deadline_of(timeout);
    Parcel parcel(*endpoint_, python::stream_of_caller(stream));
    for (const auto& [name, value] : tensors)
      parcel.add(py::str(name), py::reinterpret_borrow<py::object>(value));
    while (true) {
      Result<void> sent;
      {
        py::gil_scoped_release released;
        sent = endpoint_->send(tag, parcel.tensors, slice_of(deadline));
      }
      if (sent) break;
      if (sent.error().code != ErrorCode::DeadlineExceeded || passed(deadline)) raise(sent.error());
      look_for_signals();
    }
    parcel.sent = true;
  }

  std::optional<std::pair<std::uint64_t, py::dict>> recv(std::optional<double> timeout) {
    const Deadline deadline = deadline_of(timeout);
    while (true) {
      Result<std::optional<EndpointMessage>> message;
      {
        py::gil_scoped_release released;
        message = endpoint_->receive(slice_of(deadline));
      }
      if (auto received = value_of(std::move(message)))
        return std::pair(received->tag, to_dict(*received));
      look_for_signals();
      if (passed(deadline)) return std::nullopt;
    }
  }

  void close() {
    py::gil_scoped_release released;
    endpoint_->close();
  }
  std::size_t trim() {
    py::gil_scoped_release released;
    return endpoint_->trim();
  }
  std::size_t bytes_in_use() const {
    return endpoint_->statistics().bytes_in_use + endpoint_->device_bytes_in_use();
  }

 private:
  static py::dict to_dict(EndpointMessage& message) {
    py::dict result;
    for (EndpointTensor& tensor : message.tensors) {
      // A peer in another language may call a tensor anything.
      auto name = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
          tensor.name.data(), static_cast<py::ssize_t>(tensor.name.size()), "replace"));
      if (!name) throw py::error_already_set();
      if (tensor.shared.is_cpu()) {
        result[name] = received_array(tensor);
      } else {
        result[name] = py::cast(std::make_unique<DeviceTensor>(
            std::move(tensor.shared), tensor.dtype, std::move(tensor.shape)));
      }
    }
    return result;
  }

  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace

PYBIND11_MODULE(_transport, module) {
  module.doc() = "One end of a connection that moves tensors between two processes.";
  py::class_<Owner> owner(module, "_Owner");
  bind_device_tensor(module);
  py::class_<End>(module, "End")
      .def_static("create_on", &End::create_on, py::arg("fd"), py::arg("max_bytes"))
      .def_static("connect", &End::connect, py::arg("fd"), py::arg("timeout") = py::none())
      .def("empty", &End::empty, py::arg("shape"), py::arg("dtype"), py::arg("device") = py::none())
      .def("send", &End::send, py::arg("tensors"), py::arg("tag") = 0,
           py::arg("timeout") = py::none(), py::arg("stream") = py::none())
      .def("recv", &End::recv, py::arg("timeout") = py::none())
      .def("close", &End::close)
      .def("trim", &End::trim)
      .def_property_readonly("bytes_in_use", &End::bytes_in_use);
  module.def(
      "host_copies",
      [] {
        CopyCounts counts = copy_counts();
        return std::pair(counts.calls_of(CopyKind::Host), counts.bytes_of(CopyKind::Host));
      },
      "Calls and bytes of payload copied in this process since it started.");
  module.def("is_on_device", &python::is_on_device, py::arg("value"));
  module.def(
      "device_counts",
      [] {
        py::dict result;
        const CopyCounts counts = copy_counts();
        for (CopyKind kind :
             {CopyKind::HostToDevice, CopyKind::DeviceToHost, CopyKind::DeviceToDevice})
          result[py::str(std::string(to_string(kind)))] = counts.calls_of(kind);
        std::uint64_t waits = 0;
        for (std::size_t reason = 0; reason < cuda::kWaitReasons; ++reason)
          waits += cuda::host_waits(static_cast<cuda::WaitReason>(reason));
        result["host_waits"] = waits;
        return result;
      },
      "Copies of device memory by kind, and waits for a device on a thread of this process.");
}

}  // namespace tensorferry
