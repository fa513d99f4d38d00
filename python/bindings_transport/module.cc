// tensorferry._transport: one end of a connection (transport/endpoint.h) for NumPy.
// tensorferry/transport.py is the face that users see.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/endpoint.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace tensorferry {
namespace {

// The base of an array in shared memory. Sending the array takes `shared` out; `mapping` keeps what
// is left readable.
struct Owner {
  SharedBytes shared;
  std::shared_ptr<const void> mapping;
  std::vector<std::byte> small;
};

[[noreturn]] void raise(const Error& error) {
  py::object type = py::module_::import("tensorferry.transport").attr("TransportError");
  py::object exception = type(error.message, std::string(to_string(error.code)));
  PyErr_SetObject(type.ptr(), exception.ptr());
  throw py::error_already_set();
}

template <class T>
T value_of(Result<T> result) {
  if (!result) raise(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

Deadline deadline_of(std::optional<double> timeout) {
  if (!timeout) return {};
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*timeout));
}

DType dtype_of(const py::dtype& dtype) {
  auto found = dtype_from_numpy_typestr(std::string(py::str(dtype.attr("str"))));
  if (!found || found->is_bytes()) {
    throw py::type_error("dtype " + std::string(py::str(dtype)) +
                         " does not cross; use numbers or bool, or bytes as uint8");
  }
  return *found;
}

py::array array_over(std::unique_ptr<Owner> owner, std::span<std::byte> bytes, DType dtype,
                     const std::vector<std::int64_t>& shape) {
  std::vector<py::ssize_t> dims(shape.begin(), shape.end());
  py::object base = py::cast(std::move(owner));
  return py::array(py::dtype(std::string(numpy_typestr(dtype))), dims, bytes.data(), base);
}

class End {
 public:
  explicit End(std::unique_ptr<Endpoint> endpoint) : endpoint_(std::move(endpoint)) {}

  static std::unique_ptr<End> create_on(int fd) {
    return std::make_unique<End>(value_of(Endpoint::create_on(UniqueFd(fd))));
  }
  static std::unique_ptr<End> connect(int fd, std::optional<double> timeout) {
    Result<std::unique_ptr<Endpoint>> end;
    {
      py::gil_scoped_release released;
      end = Endpoint::connect(UniqueFd(fd), deadline_of(timeout));
    }
    return std::make_unique<End>(value_of(std::move(end)));
  }

  py::array empty(const std::vector<std::int64_t>& shape, const py::dtype& dtype) {
    DType type = dtype_of(dtype);
    std::size_t bytes = element_bytes(type);
    for (std::int64_t dim : shape) {
      if (dim < 0) throw py::value_error("a dimension is negative");
      if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(dim), &bytes))
        throw py::value_error("the shape is too large");
    }
    auto owner = std::make_unique<Owner>();
    owner->shared = value_of(endpoint_->allocate(bytes));
    owner->mapping = owner->shared.mapping();
    std::span<std::byte> range = owner->shared.bytes();
    return array_over(std::move(owner), range, type, shape);
  }

  void send(const py::dict& tensors, std::uint64_t tag, std::optional<double> timeout) {
    std::vector<EndpointTensor> out;
    std::vector<py::array> kept;  // alive until their bytes are copied
    for (const auto& [name, value] : tensors) {
      py::array array = py::array::ensure(value, py::array::c_style);
      if (!array) throw py::type_error("tensor '" + std::string(py::str(name)) + "' is no array");
      EndpointTensor& tensor = out.emplace_back();
      tensor.name = py::str(name);
      tensor.dtype = dtype_of(array.dtype());
      tensor.shape.assign(array.shape(), array.shape() + array.ndim());
      tensor.plain = {static_cast<const std::byte*>(array.data()),
                      static_cast<std::size_t>(array.nbytes())};
      if (Owner* owner = owner_of(array)) give(*owner, array, tensor);
      kept.push_back(std::move(array));
    }
    Result<void> sent;
    {
      py::gil_scoped_release released;
      sent = endpoint_->send(tag, std::move(out), deadline_of(timeout));
    }
    value_of(std::move(sent));
  }

  std::optional<std::pair<std::uint64_t, py::dict>> recv(std::optional<double> timeout) {
    // In slices, so that Ctrl-C is seen.
    Deadline deadline = deadline_of(timeout);
    while (true) {
      Deadline slice = Clock::now() + std::chrono::milliseconds(100);
      if (deadline && *deadline < *slice) slice = deadline;
      Result<std::optional<EndpointMessage>> message;
      {
        py::gil_scoped_release released;
        message = endpoint_->receive(slice);
      }
      if (auto received = value_of(std::move(message)))
        return std::pair(received->tag, to_dict(*received));
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (passed(deadline)) return std::nullopt;
    }
  }

  void close() {
    py::gil_scoped_release released;
    endpoint_->close();
  }
  std::size_t bytes_in_use() const { return endpoint_->statistics().bytes_in_use; }

 private:
  // The owner of an array of ours: exactly the whole of what it owns, not a part or another view of
  // it.
  static Owner* owner_of(const py::array& array) {
    py::object base = array.base();
    if (!base || !py::isinstance<Owner>(base)) return nullptr;
    auto* owner = base.cast<Owner*>();
    return owner->mapping ? owner : nullptr;
  }

  static void give(Owner& owner, const py::array& array, EndpointTensor& tensor) {
    if (!owner.shared) {
      throw py::value_error("tensor '" + tensor.name +
                            "' was given by an earlier send: make a new array with empty()");
    }
    if (owner.shared.bytes().size() != static_cast<std::size_t>(array.nbytes())) return;
    array.attr("flags").attr("writeable") = false;
    tensor.shared = std::move(owner.shared);
    owner.shared = {};
  }

  static py::dict to_dict(EndpointMessage& message) {
    py::dict result;
    for (EndpointTensor& tensor : message.tensors) {
      auto owner = std::make_unique<Owner>();
      std::span<std::byte> bytes;
      if (tensor.shared) {
        owner->shared = std::move(tensor.shared);
        owner->mapping = owner->shared.mapping();
        bytes = owner->shared.bytes();
      } else {
        owner->small = std::move(tensor.small);
        bytes = owner->small;
      }
      result[py::str(tensor.name)] =
          array_over(std::move(owner), bytes, tensor.dtype, tensor.shape);
    }
    return result;
  }

  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace

PYBIND11_MODULE(_transport, module) {
  module.doc() = "One end of a connection that moves tensors between two processes.";
  py::class_<Owner> owner(module, "_Owner");
  py::class_<End>(module, "End")
      .def_static("create_on", &End::create_on, py::arg("fd"))
      .def_static("connect", &End::connect, py::arg("fd"), py::arg("timeout") = py::none())
      .def("empty", &End::empty, py::arg("shape"), py::arg("dtype"))
      .def("send", &End::send, py::arg("tensors"), py::arg("tag") = 0,
           py::arg("timeout") = py::none())
      .def("recv", &End::recv, py::arg("timeout") = py::none())
      .def("close", &End::close)
      .def_property_readonly("bytes_in_use", &End::bytes_in_use);
  module.def(
      "host_copies",
      [] {
        CopyCounts counts = copy_counts();
        return std::pair(counts.calls_of(CopyKind::Host), counts.bytes_of(CopyKind::Host));
      },
      "Calls and bytes of payload copied in this process since it started.");
}

}  // namespace tensorferry
