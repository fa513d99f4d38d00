#include "byte_strings.h"

#include <cstring>

#include "py_type.h"

namespace tensorferry::stub {
namespace {

constexpr std::size_t kLengthBytes = 4;

PyRef next_element(std::span<const std::byte>& rest) {
  if (rest.size() < kLengthBytes) {
    raise_model_exception("Invalid bytes tensor data: incomplete length field");
    return {};
  }
  std::uint32_t length = 0;
  std::memcpy(&length, rest.data(), kLengthBytes);  // once: the other side may still write there
  rest = rest.subspan(kLengthBytes);
  if (rest.size() < length) {
    raise_model_exception("Invalid bytes tensor data: string extends beyond buffer");
    return {};
  }
  PyRef element(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(rest.data()), length));
  rest = rest.subspan(length);
  return element;
}

}  // namespace

PyRef decode_byte_strings(const Memory& memory) {
  if (!numpy::load()) return {};
  PyRef array = numpy::object_array(memory.shape);
  if (!array) return {};
  const numpy::Array* slots = numpy::as_array(array.get());
  const std::size_t count = numpy::bytes_of(*slots, 1);
  std::span<const std::byte> rest(memory.data, memory.bytes);
  for (std::size_t i = 0; i < count; ++i) {
    PyRef element = next_element(rest);
    if (!element) return {};
    auto* slot = reinterpret_cast<PyObject**>(slots->data) + i;
    Py_XDECREF(std::exchange(*slot, element.release()));
  }
  if (rest.empty()) return array;
  raise_model_exception("Invalid bytes tensor data: more bytes than elements");
  return {};
}

bool ByteStrings::collect_element(PyObject* element) {
  PyRef bytes;
  if (element && PyBytes_Check(element)) {
    bytes = PyRef::borrow(element);
  } else {
    PyRef text(PyObject_Str(element ? element : Py_None));
    if (text) bytes = PyRef(PyUnicode_AsUTF8String(text.get()));
  }
  if (!bytes) return false;
  const auto size = static_cast<std::size_t>(PyBytes_Size(bytes.get()));
  if (size > UINT32_MAX) {
    PyErr_SetString(PyExc_ValueError, "an element of a bytes tensor has at most 4 GiB");
    return false;
  }
  bytes_ += kLengthBytes + size;
  elements_.push_back(std::move(bytes));
  return true;
}

bool ByteStrings::collect(const numpy::Array& source) {
  PyRef packed;
  const numpy::Array* array = &source;
  if (array->descr->kind != 'O' || !numpy::is_packed(*array)) {
    auto* object = const_cast<PyObject*>(reinterpret_cast<const PyObject*>(array));
    packed = PyRef(PyObject_CallMethod(object, "astype", "ss", "O", "C"));
    if (!packed) return false;
    array = numpy::as_array(packed.get());
  }
  const std::size_t count = numpy::bytes_of(*array, 1);
  auto* slots = reinterpret_cast<PyObject**>(array->data);
  elements_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (!collect_element(slots[i])) return false;
  }
  return true;
}

void ByteStrings::write(std::byte* to) const noexcept {
  for (const PyRef& element : elements_) {
    const auto length = static_cast<std::uint32_t>(PyBytes_Size(element.get()));
    std::memcpy(to, &length, kLengthBytes);
    std::memcpy(to + kLengthBytes, PyBytes_AsString(element.get()), length);
    to += kLengthBytes + length;
  }
}

}  // namespace tensorferry::stub
