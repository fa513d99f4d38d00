#include "arrays.h"

#include <bindings_shared/foreign_tensor.h>
#include <pybind11/stl.h>
#include <tensorferry/server/device_use.h>
#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <memory>

#include "byte_strings.h"
#include "device_arrays.h"
#include "dlpack_exchange.h"
#include "errors.h"
#include "owner.h"

namespace tensorferry::python {
namespace {

constexpr std::size_t kLongCopy = 64 << 10;  // worth letting other threads run meanwhile

[[noreturn]] void wrong(const server::Model& model, const std::string& name,
                        const std::string& what) {
  raise({ErrorCode::InvalidArgument, "input '" + name + "' " + what, {model.name(), {}, {}}});
}

std::size_t total_bytes(const std::vector<std::int64_t>& shape, std::size_t element) {
  std::size_t bytes = element;
  for (std::int64_t dim : shape) {
    if (dim < 0) throw py::value_error("a dimension is negative");
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(dim), &bytes))
      throw py::value_error("the shape is too large");
  }
  return bytes;
}

// Whether infer may take the array's memory: all of it, and nothing but it, and through no view
// whose base the caller still holds writable.
bool may_take(const View& view, const py::array& array) {
  const server::Buffer& buffer = view.owner->buffer;
  return view.alone && view.owner->offered && buffer.is_shared() &&
         array.data() == buffer.bytes().data() &&
         static_cast<std::size_t>(array.nbytes()) == buffer.size() &&
         (array.flags() & py::array::c_style);
}

server::Buffer shared_with(Owner& owner) {
  std::span<std::byte> bytes = owner.buffer.bytes();
  return server::Buffer::shared(bytes.data(), bytes.size(), owner.buffer.holder(),
                                owner.buffer.device());
}

server::Buffer copy_in(server::Model& model, std::span<const std::byte> bytes) {
  if (bytes.size() < kLongCopy) return value_of(model.copy_in(bytes));
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;
    buffer = model.copy_in(bytes);
  }
  return value_of(std::move(buffer));
}

// Gathers elements into C order: one copy.
server::Buffer pack(server::Model& model, const void* data, const std::vector<std::int64_t>& shape,
                    const std::vector<std::int64_t>& strides_bytes, std::size_t element) {
  auto buffer = value_of(model.allocate(total_bytes(shape, element)));
  copy_strided(buffer.bytes().data(), data, shape.data(), strides_bytes.data(), shape.size(),
               element);
  return buffer;
}

// The Python classes that answers are made of, and their slots' names.
struct AnswerTypes {
  PyObject* response;
  PyObject* tensor;
  PyObject *array, *owner, *dtype, *shape, *parameters;
};

const AnswerTypes& answer_types() {
  // Never destroyed: the interpreter may be gone by then.
  static const AnswerTypes* types = [] {
    auto* made = new AnswerTypes{
        py::module_::import("tensorferry.server")
            .attr("Response")
            .cast<py::object>()
            .release()
            .ptr(),
        py::module_::import("tensorferry.tensor").attr("Tensor").cast<py::object>().release().ptr(),
        PyUnicode_InternFromString("_array"),
        PyUnicode_InternFromString("_owner"),
        PyUnicode_InternFromString("_dtype"),
        PyUnicode_InternFromString("_shape"),
        PyUnicode_InternFromString("_parameters")};
    return made;
  }();
  return *types;
}

bool is_big_endian(const py::dtype& dtype) { return dtype.byteorder() == '>'; }

std::optional<DType> dtype_of(const py::dtype& dtype) {
  if (is_big_endian(dtype)) return std::nullopt;
  constexpr int kFirstUserType = 256;  // NumPy's numbers for types of others, ml_dtypes' among them
  if (dtype.num() >= kFirstUserType && std::string(py::str(dtype)) == "bfloat16") return kBfloat16;
  return dtype_from_numpy_number(dtype.num());
}

bool is_answer(const py::object& value) {
  return Py_TYPE(value.ptr()) == reinterpret_cast<PyTypeObject*>(answer_types().tensor);
}

py::array as_array(const py::object& value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
  // An answer of ours, which is given only as the array that it is.
  if (is_answer(value)) return value.attr("numpy")();
  py::module_ numpy = py::module_::import("numpy");
  // Texts and bytes are objects to us, not NumPy's fixed-width strings, which would lose trailing
  // zeros.
  py::array array = numpy.attr("asarray")(value);
  char kind = array.dtype().kind();
  if (kind == 'S' || kind == 'U') array = numpy.attr("asarray")(value, py::arg("dtype") = "O");
  return array;
}

// Bytes cross whatever they mean: what the config has no name for goes as those.
constexpr const char* kAsBytes = ": view its bytes as uint8, and say in a parameter what they are";

// One request's input under way.
struct Input {
  server::Model& model;
  Gifts& gifts;
  server::Tensor& tensor;
  std::optional<CallerStream> stream;

  // False when the memory was given to an earlier request, after which nobody knows what it holds.
  // The same array once more in one request is copied.
  bool may_read(const Owner& owner) const { return !owner.given || gifts.has(owner); }
  void take(Owner& owner, const py::object& keeper, const py::object& array) {
    tensor.data = shared_with(owner);
    gifts.add(owner, keeper, array);
  }
  void must_be_readable(const Owner* owner) const {
    if (owner && !may_read(*owner)) {
      wrong(model, tensor.name,
            "was given to an earlier request: call model.empty again (it reuses warm memory), or "
            "pass a copy");
    }
  }
};

// Complete, since the answer is; after what its holder put on streams since.
server::Buffer copy_of_device(server::Model& model, const Owner& owner) {
  Result<server::Buffer> copy;
  {
    py::gil_scoped_release released;
    copy = model.copy_in(owner.buffer);
  }
  return value_of(std::move(copy));
}

// An answer that no array was asked of: its bytes as they are.
void from_answer(Input input, const py::object& value, const py::object& capsule) {
  Owner& owner = owner_in(capsule);
  input.must_be_readable(&owner);
  if (input.stream) server::use_on_stream(owner.buffer, *input.stream);
  input.tensor.dtype = owner.dtype;
  input.tensor.shape = owner.shape;
  if (owner.offered && owner.buffer.is_shared() && !input.gifts.has(owner)) {
    input.take(owner, capsule, value.attr(answer_types().array));
  } else if (owner.buffer.is_cpu()) {
    input.tensor.data = copy_in(input.model, owner.buffer.bytes());
  } else {
    input.tensor.data = copy_of_device(input.model, owner);
  }
}

void from_foreign(Input input, const py::object& value) {
  const ForeignTensor foreign(value);
  if (!has_a_name(foreign.dtype())) {
    const std::string what = py::hasattr(value, "dtype")
                                 ? "dtype " + std::string(py::str(value.attr("dtype")))
                                 : to_string(foreign.dtype());
    wrong(input.model, input.tensor.name, "has " + what + ", which does not cross" + kAsBytes);
  }
  input.tensor.dtype = foreign.dtype();
  input.tensor.shape = foreign.shape();
  input.tensor.data = foreign.is_packed()
                          ? copy_in(input.model, {foreign.data(), foreign.bytes()})
                          : pack(input.model, foreign.data(), foreign.shape(),
                                 foreign.strides_bytes(), element_bytes(foreign.dtype()));
}

void from_device(Input input, const py::object& value) {
  input.tensor.data =
      copy_from_device(input.model, value, input.stream, input.tensor.dtype, input.tensor.shape);
  if (!has_a_name(input.tensor.dtype))
    wrong(input.model, input.tensor.name,
          "has " + to_string(input.tensor.dtype) + ", which does not cross" + kAsBytes);
}

void from_array(Input input, const py::array& array) {
  input.tensor.shape.assign(array.shape(), array.shape() + array.ndim());
  const char kind = array.dtype().kind();
  if (kind == 'O' || kind == 'S' || kind == 'U') {
    input.tensor.dtype = kBytes;
    input.tensor.data = encode_strings(input.model, array);
    return;
  }
  auto dtype = dtype_of(array.dtype());
  if (!dtype) {
    wrong(input.model, input.tensor.name,
          "has dtype " + std::string(py::str(array.dtype())) + ", which does not cross" +
              (is_big_endian(array.dtype()) ? ": pass array.astype(array.dtype.newbyteorder('='))"
                                            : kAsBytes));
  }
  input.tensor.dtype = *dtype;
  const View view = view_of(array);
  input.must_be_readable(view.owner);
  if (view.owner && may_take(view, array) && !input.gifts.has(*view.owner)) {
    input.take(*view.owner, array, array);
  } else if (array.flags() & py::array::c_style) {
    input.tensor.data = copy_in(input.model, {static_cast<const std::byte*>(array.data()),
                                              static_cast<std::size_t>(array.nbytes())});
  } else {
    input.tensor.data = pack(input.model, array.data(), input.tensor.shape,
                             {array.strides(), array.strides() + array.ndim()},
                             static_cast<std::size_t>(array.itemsize()));
  }
}

// An instance without a call of __init__: its slots are set below.
py::object bare_instance(PyObject* type) {
  auto* of = reinterpret_cast<PyTypeObject*>(type);
  PyObject* object = of->tp_alloc(of, 0);
  if (!object) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

void set(const py::object& object, PyObject* name, const py::object& value) {
  if (PyObject_SetAttr(object.ptr(), name, value.ptr()) != 0) throw py::error_already_set();
}

// A tensorferry.Tensor whose memory is no array of NumPy's.
void fill_tensor(const py::object& object, std::unique_ptr<Owner> owned) {
  const AnswerTypes& types = answer_types();
  const py::str dtype(to_string(owned->dtype));
  const py::tuple shape(py::cast(owned->shape));
  set(object, types.array, py::none());
  set(object, types.owner, to_capsule(std::move(owned)));
  set(object, types.dtype, dtype);
  set(object, types.shape, shape);
}

py::object answer_of(server::Tensor& tensor) {
  const AnswerTypes& types = answer_types();
  auto owned = std::make_unique<Owner>();
  owned->buffer = std::move(tensor.data);
  std::byte* data = owned->buffer.bytes().data();
  py::object object = bare_instance(types.tensor);
  if (numpy_number(tensor.dtype) >= 0 && !tensor.dtype.is_bytes() && owned->buffer.is_cpu()) {
    const py::object owner = to_capsule(std::move(owned));
    set(object, types.array, array_over(tensor.dtype, tensor.shape, data, owner));
    return object;
  }
  owned->dtype = tensor.dtype;
  owned->shape = tensor.shape;
  fill_tensor(object, std::move(owned));
  return object;
}

py::object to_object(const server::ParameterValue& value) {
  return std::visit([](const auto& one) -> py::object { return py::cast(one); }, value);
}

}  // namespace

void bind_arrays(py::module_& module) {
  module.def("decode_strings",
             [](const py::object& capsule) { return decode_strings(owner_in(capsule)); });
  module.def("export_owner", &export_owner, py::arg("owner"), py::arg("version"), py::arg("copy"),
             py::arg("stream") = py::none());
  module.def("device_of", [](const py::object& capsule) -> std::optional<int> {
    const server::Buffer& buffer = owner_in(capsule).buffer;
    return buffer.is_cpu() ? std::nullopt : std::optional<int>(buffer.device().id);
  });
  module.def("cuda_array_interface",
             [](const py::object& capsule) { return cuda_array_interface(owner_in(capsule)); });
  module.def("copy_to_host",
             [](const py::object& capsule) { return copy_to_host(owner_in(capsule)); });
  module.def("array_of", [](const py::object& capsule) {
    Owner& owner = owner_in(capsule);
    return array_over(owner.dtype, owner.shape, owner.buffer.bytes().data(), capsule);
  });
  module.def("bits", [](const py::object& capsule) {
    Owner& owner = owner_in(capsule);
    return array_over(kUint16, owner.shape, owner.buffer.bytes().data(), capsule);
  });
  module.def("offer", [](const py::object& value) {
    Owner* owner = py::isinstance<py::array>(value) ? view_of(value.cast<py::array>()).owner
                                                    : from_capsule(value.ptr());
    if (owner) owner->offered = true;
    return owner != nullptr;
  });
}

py::object empty_on_device(server::Model& model, const std::vector<std::int64_t>& shape,
                           const py::dtype& dtype, int ordinal) {
  const auto known = dtype_of(dtype);
  if (!known || known->is_bytes())
    throw py::type_error("dtype " + std::string(py::str(dtype)) +
                         " has no fixed size that crosses");
  auto owner = std::make_unique<Owner>();
  const std::size_t bytes = total_bytes(shape, element_bytes(*known));
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;  // the first one makes a context and a chunk
    buffer = model.allocate(bytes, Device{DeviceKind::Cuda, ordinal});
  }
  owner->buffer = value_of(std::move(buffer));
  owner->dtype = *known;
  owner->shape = shape;
  owner->offered = true;
  py::object tensor = bare_instance(answer_types().tensor);
  fill_tensor(tensor, std::move(owner));
  return tensor;
}

py::array empty_array(server::Model& model, const std::vector<std::int64_t>& shape,
                      const py::dtype& dtype) {
  const auto known = dtype_of(dtype);
  if (!known || known->is_bytes())
    throw py::type_error("dtype " + std::string(py::str(dtype)) +
                         " has no fixed size that crosses");
  auto owner = std::make_unique<Owner>();
  owner->buffer = value_of(model.allocate(total_bytes(shape, element_bytes(*known))));
  owner->offered = true;
  std::byte* data = owner->buffer.bytes().data();
  const py::object capsule = to_capsule(std::move(owner));
  if (known != kBfloat16) return array_over(*known, shape, data, capsule);
  return array_over(kUint16, shape, data, capsule).attr("view")(dtype);
}

void to_tensor(server::Model& model, std::string_view name, const py::object& value, Gifts& gifts,
               std::optional<CallerStream> stream, server::Tensor& tensor) {
  tensor.name = name;
  const Input input{model, gifts, tensor, stream};
  if (is_answer(value)) {
    const AnswerTypes& types = answer_types();
    const py::object owner = py::getattr(value, types.owner, py::none());
    const bool decoded =
        !owner.is_none() && owner_in(owner).dtype.is_bytes() && !value.attr(types.array).is_none();
    if (!owner.is_none() && !decoded) return from_answer(input, value, owner);
  } else if (!py::isinstance<py::array>(value)) {
    if (is_on_device(value)) return from_device(input, value);
    if (ForeignTensor::is_one(value)) return from_foreign(input, value);
  }
  from_array(input, as_array(value));
}

py::object to_python(server::Response& response) {
  auto result =
      py::reinterpret_steal<py::object>(PyObject_CallObject(answer_types().response, nullptr));
  if (!result) throw py::error_already_set();
  for (server::Tensor& tensor : response.outputs) {
    if (PyDict_SetItem(result.ptr(), py::str(tensor.name).ptr(), answer_of(tensor).ptr()) != 0)
      throw py::error_already_set();
  }
  if (!response.parameters.empty()) {
    py::dict parameters;
    for (const auto& [key, value] : response.parameters)
      parameters[py::str(key)] = to_object(value);
    set(result, answer_types().parameters, parameters);
  }
  return result;
}

}  // namespace tensorferry::python
