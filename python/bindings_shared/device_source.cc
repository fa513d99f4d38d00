#include "device_source.h"

#include <dlpack/dlpack.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <charconv>
#include <memory>
#include <string>
#include <utility>

#include "foreign_tensor.h"

namespace tensorferry::python {
namespace {

CallerStream as_stream(std::uintptr_t number) { return reinterpret_cast<CallerStream>(number); }

// The stream that the object's library works on, where it offers DLPack's table of C functions.
std::optional<CallerStream> current_stream(const py::object& value, int device) {
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
  return stream ? static_cast<CallerStream>(stream) : as_stream(1);
}

int device_of(const py::object& value) {
  return value.attr("__dlpack_device__")().cast<py::sequence>()[1].cast<int>();
}

bool has_array_interface(const py::object& value) {
  return py::hasattr(value, "__cuda_array_interface__");
}

std::shared_ptr<void> keep(const py::object& value) {
  // Let go of by a thread without the GIL, perhaps after the interpreter.
  return {value.inc_ref().ptr(), [](void* object) {
            if (!Py_IsInitialized()) return;
            py::gil_scoped_acquire held;
            py::handle(static_cast<PyObject*>(object)).dec_ref();
          }};
}

DeviceTensorSource read_dlpack(const py::object& value, std::optional<CallerStream> named,
                               const DeviceQuestions& ask) {
  DeviceTensorSource source;
  source.device = device_of(value);
  source.memory.stream = named ? named : current_stream(value, source.device);
  const std::uintptr_t stream = source.memory.stream
                                    ? reinterpret_cast<std::uintptr_t>(*source.memory.stream)
                                    : ask.our_stream(source.device);
  const ForeignTensor tensor(value, stream);
  source.dtype = tensor.dtype();
  source.shape = tensor.shape();
  source.is_packed = tensor.is_packed();
  source.memory.address = tensor.data();
  source.memory.bytes = tensor.bytes();
  source.memory.keeper = keep(tensor.capsule());
  source.finish = source.memory.after_all = !source.memory.stream;
  return source;
}

DType dtype_named(const std::string& typestr) {
  static const py::object numpy_dtype = py::module_::import("numpy").attr("dtype");
  const auto dtype = numpy_dtype(typestr).cast<py::dtype>();
  const auto known = dtype_from_numpy_number(dtype.num());
  if (!known || typestr.starts_with('>'))
    throw py::buffer_error("__cuda_array_interface__: typestr " + typestr + " does not cross");
  return *known;
}

bool is_in_c_order(const py::dict& interface, std::span<const std::int64_t> shape,
                   std::int64_t element) {
  if (!interface.contains("strides") || interface["strides"].is_none()) return true;
  const auto strides = interface["strides"].cast<std::vector<std::int64_t>>();
  std::int64_t expected = element;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides.at(i) != expected) return false;
    expected *= shape[i];
  }
  return true;
}

DeviceTensorSource read_interface(const py::object& value, std::optional<CallerStream> named,
                                  const DeviceQuestions& ask) {
  const auto interface = value.attr("__cuda_array_interface__").cast<py::dict>();
  if (interface.contains("mask") && !interface["mask"].is_none())
    throw py::buffer_error("__cuda_array_interface__: masked arrays do not cross");
  DeviceTensorSource source;
  source.dtype = dtype_named(interface["typestr"].cast<std::string>());
  source.shape = interface["shape"].cast<std::vector<std::int64_t>>();
  const auto element = static_cast<std::int64_t>(element_bytes(source.dtype));
  std::int64_t bytes = element;
  for (std::int64_t dim : source.shape) bytes *= dim;
  source.is_packed = bytes == 0 || is_in_c_order(interface, source.shape, element);
  const auto address = interface["data"].cast<py::sequence>()[0].cast<std::uintptr_t>();
  source.memory.address = reinterpret_cast<const std::byte*>(address);
  source.memory.bytes = static_cast<std::size_t>(bytes);
  // Without elements it may have no address, and so lies on no device in particular.
  source.device = bytes == 0 && address == 0 ? 0 : ask.device_of(address);
  source.memory.keeper = keep(value);
  source.memory.stream = named;
  if (!named && interface.contains("stream") && !interface["stream"].is_none())
    source.memory.stream = as_stream(interface["stream"].cast<std::uintptr_t>());
  // None: nobody is at work on it. But numba says that of its default stream too.
  source.finish = !source.memory.stream;
  if (source.finish) source.memory.stream = as_stream(1);
  return source;
}

}  // namespace

void refuse_strides() {
  throw py::buffer_error(
      "the device tensor is not in C order: pass a contiguous one (torch: .contiguous(), CuPy: "
      "cupy.ascontiguousarray)");
}

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
  return as_stream(value == 0 ? 1 : value);  // PyTorch's and CuPy's 0: the legacy default stream
}

DeviceTensorSource read_device_tensor(const py::object& value, std::optional<CallerStream> named,
                                      const DeviceQuestions& ask) {
  return ForeignTensor::is_one(value) ? read_dlpack(value, named, ask)
                                      : read_interface(value, named, ask);
}

}  // namespace tensorferry::python
