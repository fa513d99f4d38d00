#include "arrays.h"

#include <pybind11/stl.h>
#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "errors.h"

namespace tensorferry::python {
namespace {

// Owns a tensor's memory on Python's side. As the base of an array it keeps the array valid;
// `given` once a request has the memory too: it is kept mapped and unused by others until this goes
// as well.
struct Owner {
  server::Buffer buffer;
  std::string typestr;  // NumPy's; empty where NumPy has none
  std::vector<std::int64_t> shape;
  bool given = false;

  py::dict interface() {
    py::dict result;
    result["shape"] = py::tuple(py::cast(shape));
    result["typestr"] = typestr;
    result["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(buffer.bytes().data()), given);
    result["version"] = 3;
    return result;
  }
};

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

// The owner of an array that is exactly the whole of what it owns.
Owner* owner_of(const py::array& array) {
  py::object base = array.base();
  if (!base || !py::isinstance<Owner>(base)) return nullptr;
  auto* owner = base.cast<Owner*>();
  bool whole = array.data() == owner->buffer.bytes().data() &&
               static_cast<std::size_t>(array.nbytes()) == owner->buffer.size() &&
               (array.flags() & py::array::c_style);
  return whole && owner->buffer.is_shared() ? owner : nullptr;
}

server::Buffer give(const server::Model& model, const std::string& name, Owner& owner,
                    const py::array& array) {
  if (owner.given) {
    wrong(model, name,
          "was given to an earlier request: call model.empty again (it reuses warm memory), or "
          "pass a copy");
  }
  owner.given = true;
  array.attr("flags").attr("writeable") = false;
  std::span<std::byte> bytes = owner.buffer.bytes();
  return server::Buffer::shared(bytes.data(), bytes.size(), owner.buffer.holder());
}

// BYTES: each element after its length.
server::Buffer encode_strings(server::Model& model, const py::array& array) {
  std::string encoded;
  for (py::handle item : py::iter(array.attr("flat"))) {
    std::string text;
    if (py::isinstance<py::bytes>(item)) {
      text = item.cast<std::string>();
    } else {
      text = std::string(py::str(item));
    }
    auto length = static_cast<std::uint32_t>(text.size());
    encoded.append(reinterpret_cast<const char*>(&length), sizeof length);
    encoded += text;
  }
  return value_of(model.copy_in(std::as_bytes(std::span(encoded))));
}

server::Buffer pack(server::Model& model, const py::array& array) {
  auto buffer = value_of(model.allocate(static_cast<std::size_t>(array.nbytes())));
  std::vector<std::int64_t> shape(array.shape(), array.shape() + array.ndim());
  std::vector<std::int64_t> strides(array.strides(), array.strides() + array.ndim());
  copy_strided(buffer.bytes().data(), array.data(), shape.data(), strides.data(), shape.size(),
               static_cast<std::size_t>(array.itemsize()));
  return buffer;
}

py::array as_array(const py::object& value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
  py::module_ numpy = py::module_::import("numpy");
  if (py::hasattr(value, "__dlpack__")) return numpy.attr("from_dlpack")(value);
  // Texts and bytes are objects to us, not NumPy's fixed-width strings, which would lose trailing
  // zeros.
  py::array array = numpy.attr("asarray")(value);
  char kind = array.dtype().kind();
  if (kind == 'S' || kind == 'U') array = numpy.attr("asarray")(value, py::arg("dtype") = "O");
  return array;
}

}  // namespace

void bind_arrays(py::module_& module) {
  py::class_<Owner>(module, "Owner")
      .def_property_readonly("__array_interface__", &Owner::interface)
      .def_readonly("shape", &Owner::shape)
      .def_readwrite("given", &Owner::given)
      .def("tobytes", [](Owner& self) {
        auto bytes = self.buffer.bytes();
        return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      });
}

py::array empty_array(server::Model& model, const std::vector<std::int64_t>& shape,
                      const py::dtype& dtype) {
  auto known = dtype_from_numpy_typestr(std::string(py::str(dtype.attr("str"))));
  if (!known || known->is_bytes())
    throw py::type_error("dtype " + std::string(py::str(dtype)) +
                         " has no fixed size that crosses");
  auto owner = std::make_unique<Owner>();
  owner->buffer = value_of(model.allocate(total_bytes(shape, element_bytes(*known))));
  owner->typestr = numpy_typestr(*known);
  owner->shape = shape;
  void* data = owner->buffer.bytes().data();
  std::vector<py::ssize_t> dims(shape.begin(), shape.end());
  return py::array(dtype, dims, data, py::cast(std::move(owner)));
}

server::Tensor to_tensor(server::Model& model, std::string name, const py::object& value,
                         std::vector<const void*>& given_here) {
  py::array array = as_array(value);
  server::Tensor tensor;
  tensor.shape.assign(array.shape(), array.shape() + array.ndim());
  char kind = array.dtype().kind();
  if (kind == 'O' || kind == 'S' || kind == 'U') {
    tensor.dtype = kBytes;
    tensor.data = encode_strings(model, array);
    tensor.name = std::move(name);
    return tensor;
  }
  auto dtype = dtype_from_numpy_typestr(std::string(py::str(array.dtype().attr("str"))));
  if (!dtype)
    wrong(model, name,
          "has dtype " + std::string(py::str(array.dtype())) + ", which does not cross");
  tensor.dtype = *dtype;
  Owner* owner = owner_of(array);
  if (owner && std::ranges::find(given_here, array.data()) == given_here.end()) {
    tensor.data = give(model, name, *owner, array);
    given_here.push_back(array.data());
  } else if (array.flags() & py::array::c_style) {
    tensor.data = value_of(model.copy_in(
        {static_cast<const std::byte*>(array.data()), static_cast<std::size_t>(array.nbytes())}));
  } else {
    tensor.data = pack(model, array);
  }
  tensor.name = std::move(name);
  return tensor;
}

py::dict outputs_of(server::Response& response) {
  py::dict result;
  for (server::Tensor& tensor : response.outputs) {
    auto owner = std::make_unique<Owner>();
    owner->typestr = tensor.dtype.is_bytes() ? "" : std::string(numpy_typestr(tensor.dtype));
    owner->shape = tensor.shape;
    owner->buffer = std::move(tensor.data);
    result[py::str(tensor.name)] = py::make_tuple(
        to_string(tensor.dtype), py::tuple(py::cast(tensor.shape)), py::cast(std::move(owner)));
  }
  return result;
}

}  // namespace tensorferry::python
