#include "arrays.h"

#include <tensorferry/transport/byte_strings.h>
#include <tensorferry/transport/codec.h>

#include <utility>

namespace tensorferry {
namespace {

constexpr int kWriteable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

// NumPy's own type, or that of ml_dtypes for what NumPy lacks; raw bytes where that isn't
// installed.
py::dtype numpy_dtype(DType dtype) {
  if (std::string_view known = numpy_typestr(dtype); !known.empty())
    return py::dtype(std::string(known));
  try {
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr(to_string(dtype).c_str()));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_ImportError) && !error.matches(PyExc_AttributeError)) throw;
    return py::dtype("V" + std::to_string(element_bytes(dtype)));
  }
}

py::array array_on(py::handle base, std::span<std::byte> bytes, DType dtype,
                   const std::vector<std::int64_t>& shape) {
  std::vector<py::ssize_t> dims(shape.begin(), shape.end());
  return py::array(numpy_dtype(dtype), dims, bytes.data(), base);
}

// Each length is read once and checked, since the bytes may lie in memory that the peer writes.
py::array byte_strings(const EndpointTensor& tensor) {
  auto wrong = [&] [[noreturn]] () {
    raise({ErrorCode::Protocol,
           "tensor '" + tensor.name + "' of bytes is not laid out as its shape says",
           {}});
  };
  const auto count = element_count(tensor.shape);
  ByteStringReader reader(tensor.bytes());
  if (!count || !reader.may_hold(static_cast<std::size_t>(*count))) wrong();
  py::list elements;
  for (std::int64_t i = 0; i < *count; ++i) {
    const auto element = reader.next();
    if (!element) wrong();
    elements.append(py::bytes(reinterpret_cast<const char*>(element->data()), element->size()));
  }
  if (!reader.finish()) wrong();
  py::module_ numpy = py::module_::import("numpy");
  py::array array = numpy.attr("empty")(elements.size(), "O");
  array[py::ellipsis()] = elements;
  return array.attr("reshape")(py::cast(tensor.shape));
}

}  // namespace

void raise(const Error& error) {
  py::object type = py::module_::import("tensorferry.transport").attr("TransportError");
  py::object exception = type(error.message, std::string(to_string(error.code)));
  PyErr_SetObject(type.ptr(), exception.ptr());
  throw py::error_already_set();
}

DType dtype_of(const py::dtype& dtype) {
  auto found = dtype_from_numpy_typestr(std::string(py::str(dtype.attr("str"))));
  if (found && !found->is_bytes()) return *found;
  const std::string name = py::str(dtype);
  for (DType of_ml_dtypes :
       {kBfloat16, DType{DTypeCode::Float8E4M3Fn, 8}, DType{DTypeCode::Float8E5M2, 8}}) {
    if (name == to_string(of_ml_dtypes)) return of_ml_dtypes;
  }
  throw py::type_error("dtype " + name +
                       " does not cross: numbers and bool in this machine's byte order do; send "
                       "text as an array of uint8");
}

py::array array_over(std::unique_ptr<Owner> owner, std::span<std::byte> bytes, DType dtype,
                     const std::vector<std::int64_t>& shape) {
  return array_on(py::cast(std::move(owner)), bytes, dtype, shape);
}

py::array view_of(std::span<std::byte> bytes, DType dtype, const std::vector<std::int64_t>& shape) {
  return array_on(py::capsule(bytes.data(), [](void*) {}), bytes, dtype, shape);
}

py::array received_array(EndpointTensor& tensor) {
  if (tensor.dtype.is_bytes()) return byte_strings(tensor);
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
  return array_over(std::move(owner), bytes, tensor.dtype, tensor.shape);
}

Owner* owner_of(const py::array& array) {
  py::object base = array.base();
  if (!base || !py::isinstance<Owner>(base)) return nullptr;
  auto* owner = base.cast<Owner*>();
  return owner->mapping ? owner : nullptr;
}

bool is_writeable(const py::array& array) { return (array.flags() & kWriteable) != 0; }

// NumPy itself would not let it become writeable again: it doesn't know our memory.
void set_writeable(const py::array& array, bool writeable) {
  int& flags = py::detail::array_proxy(array.ptr())->flags;
  flags = writeable ? flags | kWriteable : flags & ~kWriteable;
}

}  // namespace tensorferry
