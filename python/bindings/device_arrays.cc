#include "device_arrays.h"

#include <dlpack/dlpack.h>
#include <pybind11/stl.h>
#include <tensorferry/server/device_use.h>

#include <charconv>
#include <memory>
#include <string>

#include "dlpack_exchange.h"
#include "errors.h"

namespace tensorferry::python {
namespace {

using Stream = CUstream_st*;

Stream stream_of(std::uintptr_t number) { return reinterpret_cast<Stream>(number); }
std::uintptr_t number_of(Stream stream) { return reinterpret_cast<std::uintptr_t>(stream); }

// The stream that the object's library works on, where it offers DLPack's table of C functions.
std::optional<Stream> current_stream(const py::object& value, int device) {
  const py::object type = py::type::of(value);
  if (!py::hasattr(type, "__dlpack_c_exchange_api__")) return std::nullopt;
  const py::object capsule = type.attr("__dlpack_c_exchange_api__");
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return std::nullopt;
  const auto* api = static_cast<const DLPackExchangeAPI*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api->header.version.major != DLPACK_MAJOR_VERSION || !api->current_work_stream)
    return std::nullopt;
  void* stream = nullptr;
  if (api->current_work_stream(kDLCUDA, device, &stream) != 0) throw py::error_already_set();
  return stream ? static_cast<Stream>(stream) : stream_of(1);
}

int device_of(const py::object& value) {
  return value.attr("__dlpack_device__")().cast<py::sequence>()[1].cast<int>();
}

bool has_array_interface(const py::object& value) {
  return py::hasattr(value, "__cuda_array_interface__");
}

[[noreturn]] void not_packed() {
  throw py::buffer_error(
      "the device tensor is not in C order: pass a contiguous one (torch: .contiguous(), CuPy: "
      "cupy.ascontiguousarray)");
}

server::Buffer copy(server::Model& model, const server::DeviceSource& source) {
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;
    buffer = model.copy_in(source);
    // Nobody can say when its owner writes it next: the copy is done before he has it back.
    if (buffer && !source.stream) {
      if (auto done = model.finish_copies(source.device); !done)
        buffer = std::unexpected(done.error());
    }
  }
  return value_of(std::move(buffer));
}

std::shared_ptr<void> keep(const py::object& value) {
  // Let go of by a thread without the GIL, perhaps after the interpreter.
  return {value.inc_ref().ptr(), [](void* object) {
            if (!Py_IsInitialized()) return;
            py::gil_scoped_acquire held;
            py::handle(static_cast<PyObject*>(object)).dec_ref();
          }};
}

server::Buffer copy_dlpack(server::Model& model, const py::object& value,
                           std::optional<Stream> named, DType& dtype,
                           std::vector<std::int64_t>& shape) {
  server::DeviceSource source;
  source.device = device_of(value);
  source.stream = named ? named : current_stream(value, source.device);
  const std::uintptr_t stream =
      source.stream ? number_of(*source.stream) : value_of(model.device_stream(source.device));
  const ForeignTensor tensor(value, stream);
  if (!tensor.is_packed()) not_packed();
  dtype = tensor.dtype();
  shape = tensor.shape();
  source.address = tensor.data();
  source.bytes = tensor.bytes();
  source.keeper = keep(tensor.capsule());
  source.after_all = !source.stream;
  return copy(model, source);
}

DType dtype_of(const std::string& typestr) {
  static const py::object numpy_dtype = py::module_::import("numpy").attr("dtype");
  const auto dtype = numpy_dtype(typestr).cast<py::dtype>();
  const auto known = dtype_from_numpy_number(dtype.num());
  if (!known || typestr.starts_with('>'))
    throw py::buffer_error("__cuda_array_interface__: typestr " + typestr + " does not cross");
  return *known;
}

server::Buffer copy_interface(server::Model& model, const py::object& value,
                              std::optional<Stream> named, DType& dtype,
                              std::vector<std::int64_t>& shape) {
  const auto interface = value.attr("__cuda_array_interface__").cast<py::dict>();
  if (interface.contains("mask") && !interface["mask"].is_none())
    throw py::buffer_error("__cuda_array_interface__: masked arrays do not cross");
  dtype = dtype_of(interface["typestr"].cast<std::string>());
  shape = interface["shape"].cast<std::vector<std::int64_t>>();
  const auto element = static_cast<std::int64_t>(element_bytes(dtype));
  std::int64_t bytes = element;
  for (std::int64_t dim : shape) bytes *= dim;
  if (interface.contains("strides") && !interface["strides"].is_none() && bytes > 0) {
    const auto strides = interface["strides"].cast<std::vector<std::int64_t>>();
    std::int64_t expected = element;
    for (std::size_t i = shape.size(); i-- > 0;) {
      if (shape[i] != 1 && strides.at(i) != expected) not_packed();
      expected *= shape[i];
    }
  }
  server::DeviceSource source;
  const auto address = interface["data"].cast<py::sequence>()[0].cast<std::uintptr_t>();
  source.address = reinterpret_cast<const std::byte*>(address);
  source.bytes = static_cast<std::size_t>(bytes);
  source.device = value_of(model.device_of(address));
  source.keeper = keep(value);
  source.stream = named;
  if (!named && interface.contains("stream") && !interface["stream"].is_none())
    source.stream = stream_of(interface["stream"].cast<std::uintptr_t>());
  source.after_all = !source.stream;
  return copy(model, source);
}

}  // namespace

std::optional<int> cuda_ordinal(const py::object& device) {
  if (device.is_none()) return std::nullopt;
  const std::string text = py::str(device);
  constexpr std::string_view kCuda = "cuda";
  if (text == "cpu") return std::nullopt;
  int ordinal = 0;
  std::string_view rest(text);
  if (rest.starts_with(kCuda)) {
    rest.remove_prefix(kCuda.size());
    if (rest.empty()) return 0;
    const auto [end, code] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), ordinal);
    if (rest.front() == ':' && code == std::errc() && end == rest.data() + rest.size() &&
        ordinal >= 0)
      return ordinal;
  }
  throw py::value_error("device '" + text + "': it is \"cpu\", \"cuda\" or \"cuda:<number>\"");
}

bool is_on_device(const py::object& value) {
  if (ForeignTensor::is_one(value)) {
    const int type = value.attr("__dlpack_device__")().cast<py::sequence>()[0].cast<int>();
    return type == kDLCUDA || type == kDLCUDAManaged;
  }
  return has_array_interface(value);
}

std::optional<CallerStream> stream_of_caller(py::handle stream) {
  if (stream.is_none()) return std::nullopt;
  py::object number = py::reinterpret_borrow<py::object>(stream);
  if (py::hasattr(stream, "__cuda_stream__")) {
    number = stream.attr("__cuda_stream__")().cast<py::sequence>()[1];
  } else if (py::hasattr(stream, "cuda_stream")) {
    number = stream.attr("cuda_stream");
  } else if (py::hasattr(stream, "ptr")) {
    number = stream.attr("ptr");
  }
  if (!py::isinstance<py::int_>(number))
    throw py::type_error("stream is a stream's number, or a stream of cuda.core, PyTorch or CuPy");
  const auto value = number.cast<std::uintptr_t>();
  return stream_of(value == 0 ? 1 : value);  // PyTorch's and CuPy's 0: the legacy default stream
}

server::Buffer copy_from_device(server::Model& model, const py::object& value,
                                std::optional<CallerStream> stream, DType& dtype,
                                std::vector<std::int64_t>& shape) {
  return ForeignTensor::is_one(value) ? copy_dlpack(model, value, stream, dtype, shape)
                                      : copy_interface(model, value, stream, dtype, shape);
}

void use_on_stream(Owner& owner, const py::object& stream) {
  std::int64_t number = 1;  // none: the legacy default stream
  if (!stream.is_none()) number = stream.cast<std::int64_t>();
  if (number == 0 || number < -1)
    throw py::value_error("stream " + std::to_string(number) +
                          ": it is 1 (the legacy default stream), 2 (the per-thread one), a "
                          "stream's number, or -1 for no synchronisation");
  // What is there is complete: -1 asks for nothing, but its work can't be known later.
  if (number > 0)
    server::use_on_stream(owner.buffer, stream_of(static_cast<std::uintptr_t>(number)));
}

py::dict cuda_array_interface(Owner& owner) {
  using namespace py::literals;
  if (numpy_number(owner.dtype) < 0 || owner.dtype.is_bytes())
    throw py::attribute_error("__cuda_array_interface__ has no " + to_string(owner.dtype));
  // The consumer is told of the legacy stream, and orders its own after that.
  server::use_on_stream(owner.buffer, stream_of(1));
  const py::object typestr = py::dtype(numpy_number(owner.dtype)).attr("str");
  const auto address = reinterpret_cast<std::uintptr_t>(owner.buffer.bytes().data());
  return py::dict("shape"_a = py::tuple(py::cast(owner.shape)), "typestr"_a = typestr,
                  "data"_a = py::make_tuple(address, owner.given), "version"_a = 3,
                  "strides"_a = py::none(), "stream"_a = 1);
}

py::object copy_to_host(const Owner& owner) {
  auto copy = std::make_unique<Owner>();
  copy->dtype = owner.dtype;
  copy->shape = owner.shape;
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;
    buffer = server::copy_to_host(owner.buffer);
  }
  copy->buffer = value_of(std::move(buffer));
  return to_capsule(std::move(copy));
}

}  // namespace tensorferry::python
