#include "byte_strings.h"

#include <tensorferry/transport/byte_strings.h>
#include <tensorferry/transport/codec.h>
#include <tensorferry/transport/copy.h>

#include <cstring>

#include "errors.h"

namespace tensorferry::python {
namespace {

py::bytes to_bytes(py::handle item) {
  if (py::isinstance<py::bytes>(item)) return py::reinterpret_borrow<py::bytes>(item);
  PyObject* encoded = PyUnicode_AsUTF8String(py::str(item).ptr());
  if (!encoded) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(encoded);
}

std::string_view view_of(const py::bytes& element) {
  return {PyBytes_AS_STRING(element.ptr()),
          static_cast<std::size_t>(PyBytes_GET_SIZE(element.ptr()))};
}

template <class T>
T checked(Result<T> result) {
  if (!result) throw py::value_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *result;
}

}  // namespace

server::Buffer encode_strings(server::Model& model, const py::array& array) {
  std::vector<py::bytes> elements;
  elements.reserve(static_cast<std::size_t>(array.size()));
  std::size_t bytes = 0;
  for (py::handle item : py::iter(array.attr("flat"))) {
    const std::size_t size = view_of(elements.emplace_back(to_bytes(item))).size();
    if (size > UINT32_MAX) throw py::value_error("an element of a bytes tensor has at most 4 GiB");
    bytes += kStringLengthBytes + size;
  }
  auto buffer = value_of(model.allocate(bytes));
  std::byte* to = buffer.bytes().data();
  for (const py::bytes& element : elements) {
    const std::string_view text = view_of(element);
    const auto length = static_cast<std::uint32_t>(text.size());
    std::memcpy(to, &length, kStringLengthBytes);
    std::memcpy(to + kStringLengthBytes, text.data(), text.size());
    to += kStringLengthBytes + text.size();
  }
  count_copy(bytes, bytes < protocol::kInlineBelowBytes ? CopyKind::Inline : CopyKind::Host);
  return buffer;
}

py::array decode_strings(const Owner& owner) {
  ByteStringReader reader(owner.buffer.bytes());
  const auto count = static_cast<std::size_t>(checked(element_count(owner.shape)));
  if (!reader.may_hold(count))
    throw py::value_error("Invalid bytes tensor data: incomplete length field");
  py::array array(py::dtype("O"), owner.shape);
  auto* slots = static_cast<PyObject**>(array.mutable_data());
  for (std::size_t i = 0; i < count; ++i) {
    const auto text = checked(reader.next());
    py::bytes element(reinterpret_cast<const char*>(text.data()), text.size());
    Py_XDECREF(std::exchange(slots[i], element.release().ptr()));
  }
  checked(reader.finish());
  return array;
}

}  // namespace tensorferry::python
