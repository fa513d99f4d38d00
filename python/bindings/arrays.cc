#include "arrays.h"

#include <pybind11/stl.h>
#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "errors.h"

namespace tensorferry::python {
namespace {

// Owns a tensor's memory on Python's side, in a capsule that is the base of the arrays over it.
// `given` once a request has the memory too: it is kept mapped and unused by others until this goes
// as well. `offered`: infer may take it (model.empty, tensorferry.give).
struct Owner {
  server::Buffer buffer;
  bool offered = false;
  bool given = false;
};
constexpr const char* kOwner = "tensorferry.owner";
constexpr std::size_t kLongCopy = 64 << 10;  // worth letting other threads run meanwhile

py::object to_capsule(std::unique_ptr<Owner> owner) {
  PyObject* capsule = PyCapsule_New(owner.get(), kOwner, [](PyObject* one) {
    delete static_cast<Owner*>(PyCapsule_GetPointer(one, kOwner));
  });
  if (!capsule) throw py::error_already_set();
  (void)owner.release();
  return py::reinterpret_steal<py::object>(capsule);
}

Owner* from_capsule(PyObject* object) {
  return object && PyCapsule_IsValid(object, kOwner)
             ? static_cast<Owner*>(PyCapsule_GetPointer(object, kOwner))
             : nullptr;
}

py::array array_over(DType dtype, const std::vector<std::int64_t>& shape, std::byte* data,
                     const py::object& base) {
  static std::byte nothing;  // NumPy takes a null pointer as a wish for memory of its own
  auto& numpy = py::detail::npy_api::get();
  static_assert(sizeof(Py_intptr_t) == sizeof(std::int64_t));
  PyObject* array = numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, numpy.PyArray_DescrFromType_(numpy_number(dtype)),
      static_cast<int>(shape.size()), reinterpret_cast<const Py_intptr_t*>(shape.data()), nullptr,
      data ? data : &nothing,
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
          py::detail::npy_api::NPY_ARRAY_WRITEABLE_,
      nullptr);
  if (!array) throw py::error_already_set();
  auto result = py::reinterpret_steal<py::array>(array);
  if (numpy.PyArray_SetBaseObject_(array, py::object(base).release().ptr()) != 0)
    throw py::error_already_set();
  return result;
}

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

Owner* owner_of(const py::array& array) {
  return from_capsule(py::detail::array_proxy(array.ptr())->base);
}

// Whether infer may take the array's memory: all of it, and nothing but it.
bool may_take(const Owner& owner, const py::array& array) {
  return owner.offered && owner.buffer.is_shared() && array.data() == owner.buffer.bytes().data() &&
         static_cast<std::size_t>(array.nbytes()) == owner.buffer.size() &&
         (array.flags() & py::array::c_style);
}

server::Buffer give(const server::Model& model, const std::string& name, Owner& owner,
                    const py::array& array) {
  if (owner.given) {
    wrong(model, name,
          "was given to an earlier request: call model.empty again (it reuses warm memory), or "
          "pass a copy");
  }
  owner.given = true;
  py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  std::span<std::byte> bytes = owner.buffer.bytes();
  return server::Buffer::shared(bytes.data(), bytes.size(), owner.buffer.holder());
}

server::Buffer copy_in(server::Model& model, const py::array& array) {
  std::span bytes(static_cast<const std::byte*>(array.data()),
                  static_cast<std::size_t>(array.nbytes()));
  if (bytes.size() < kLongCopy) return value_of(model.copy_in(bytes));
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;
    buffer = model.copy_in(bytes);
  }
  return value_of(std::move(buffer));
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

// The Python classes that answers are made of, and their slots' names.
struct AnswerTypes {
  PyObject* response;
  PyObject* tensor;
  PyObject *array, *owner, *dtype, *shape;
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
        PyUnicode_InternFromString("_shape")};
    return made;
  }();
  return *types;
}

std::optional<DType> dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (dtype.byteorder() == '>') return std::nullopt;
  constexpr int kFirstUserType = 256;  // NumPy's numbers for types of others, ml_dtypes' among them
  if (dtype.num() >= kFirstUserType && std::string(py::str(dtype)) == "bfloat16") return kBfloat16;
  return dtype_from_numpy_number(dtype.num());
}

py::array as_array(const py::object& value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
  // An answer of ours, which is given only as the array that it is.
  if (Py_TYPE(value.ptr()) == reinterpret_cast<PyTypeObject*>(answer_types().tensor))
    return value.attr("numpy")();
  py::module_ numpy = py::module_::import("numpy");
  if (py::hasattr(value, "__dlpack__")) return numpy.attr("from_dlpack")(value);
  // Texts and bytes are objects to us, not NumPy's fixed-width strings, which would lose trailing
  // zeros.
  py::array array = numpy.attr("asarray")(value);
  char kind = array.dtype().kind();
  if (kind == 'S' || kind == 'U') array = numpy.attr("asarray")(value, py::arg("dtype") = "O");
  return array;
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

py::object to_python(server::Tensor& tensor) {
  const AnswerTypes& types = answer_types();
  auto owned = std::make_unique<Owner>();
  owned->buffer = std::move(tensor.data);
  std::byte* data = owned->buffer.bytes().data();
  py::object owner = to_capsule(std::move(owned));
  py::object object = bare_instance(types.tensor);
  if (numpy_number(tensor.dtype) >= 0 && !tensor.dtype.is_bytes()) {
    set(object, types.array, array_over(tensor.dtype, tensor.shape, data, owner));
    return object;
  }
  set(object, types.array, py::none());
  set(object, types.owner, owner);
  set(object, types.dtype, py::str(to_string(tensor.dtype)));
  set(object, types.shape, py::tuple(py::cast(tensor.shape)));
  return object;
}

Owner& owner_in(const py::object& capsule) {
  Owner* owner = from_capsule(capsule.ptr());
  if (!owner) throw py::type_error("not memory of tensorferry");
  return *owner;
}

}  // namespace

void bind_arrays(py::module_& module) {
  module.def("owner_bytes", [](const py::object& capsule) {
    auto bytes = owner_in(capsule).buffer.bytes();
    return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  module.def("offer", [](const py::object& value) {
    py::object base = value;
    if (py::isinstance<py::array>(value)) base = value.cast<py::array>().base();
    Owner* owner = base ? from_capsule(base.ptr()) : nullptr;
    if (owner) owner->offered = true;
    return owner != nullptr;
  });
}

py::array empty_array(server::Model& model, const std::vector<std::int64_t>& shape,
                      const py::dtype& dtype) {
  auto known = dtype.byteorder() == '>' ? std::nullopt : dtype_from_numpy_number(dtype.num());
  if (!known || known->is_bytes())
    throw py::type_error("dtype " + std::string(py::str(dtype)) +
                         " has no fixed size that crosses");
  auto owner = std::make_unique<Owner>();
  owner->buffer = value_of(model.allocate(total_bytes(shape, element_bytes(*known))));
  owner->offered = true;
  std::byte* data = owner->buffer.bytes().data();
  return array_over(*known, shape, data, to_capsule(std::move(owner)));
}

void to_tensor(server::Model& model, std::string_view name, const py::object& value,
               std::vector<const void*>& given_here, server::Tensor& tensor) {
  py::array array = as_array(value);
  tensor.name = name;
  tensor.shape.assign(array.shape(), array.shape() + array.ndim());
  const char kind = array.dtype().kind();
  if (kind == 'O' || kind == 'S' || kind == 'U') {
    tensor.dtype = kBytes;
    tensor.data = encode_strings(model, array);
    return;
  }
  auto dtype = dtype_of(array);
  if (!dtype)
    wrong(model, tensor.name,
          "has dtype " + std::string(py::str(array.dtype())) + ", which does not cross");
  tensor.dtype = *dtype;
  Owner* owner = owner_of(array);
  if (owner && may_take(*owner, array) &&
      std::ranges::find(given_here, array.data()) == given_here.end()) {
    tensor.data = give(model, tensor.name, *owner, array);
    given_here.push_back(array.data());
  } else if (array.flags() & py::array::c_style) {
    tensor.data = copy_in(model, array);
  } else {
    tensor.data = pack(model, array);
  }
}

py::object to_python(server::Response& response) {
  auto result =
      py::reinterpret_steal<py::object>(PyObject_CallObject(answer_types().response, nullptr));
  if (!result) throw py::error_already_set();
  for (server::Tensor& tensor : response.outputs) {
    if (PyDict_SetItem(result.ptr(), py::str(tensor.name).ptr(), to_python(tensor).ptr()) != 0)
      throw py::error_already_set();
  }
  return result;
}

}  // namespace tensorferry::python
