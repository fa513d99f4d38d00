#include "byte_strings.h"

#include <tensorferry/transport/byte_strings.h>
#include <tensorferry/transport/codec.h>

#include <algorithm>
#include <cstring>

#include "py_type.h"

namespace tensorferry::stub {
namespace {

PyRef next_element(ByteStringReader& reader) {
  auto element = reader.next();
  if (!element) {
    raise_model_exception("%s", element.error().message.c_str());
    return {};
  }
  return PyRef(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(element->data()),
                                         static_cast<Py_ssize_t>(element->size())));
}

}  // namespace

PyRef decode_byte_strings(const Memory& memory) {
  if (!numpy::load()) return {};
  ByteStringReader reader({memory.data, memory.bytes});
  const auto count = element_count(memory.shape);
  if (!count || !reader.may_hold(static_cast<std::size_t>(*count))) {
    raise_model_exception("Invalid bytes tensor data: incomplete length field");
    return {};
  }
  PyRef array = numpy::object_array(memory.shape);
  if (!array) return {};
  auto* slots = reinterpret_cast<PyObject**>(numpy::as_array(array.get())->data);
  for (std::int64_t i = 0; i < *count; ++i) {
    PyRef element = next_element(reader);
    if (!element) return {};
    Py_XDECREF(std::exchange(slots[i], element.release()));
  }
  if (auto finished = reader.finish(); !finished) {
    raise_model_exception("%s", finished.error().message.c_str());
    return {};
  }
  return array;
}

bool ByteStrings::encode(PyRef& element) {
  if (!PyBytes_Check(element.get())) {
    PyRef text(PyObject_Str(element.get()));
    element = PyRef(text ? PyUnicode_AsUTF8String(text.get()) : nullptr);
    if (!element) return false;
  }
  const auto size = static_cast<std::size_t>(PyBytes_Size(element.get()));
  if (size > UINT32_MAX) {
    PyErr_SetString(PyExc_ValueError, "an element of a bytes tensor has at most 4 GiB");
    return false;
  }
  bytes_ += kStringLengthBytes + size;
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
  // All are held before the first str(): that runs the model's code, which may change the array.
  for (std::size_t i = 0; i < count; ++i)
    elements_.push_back(PyRef::borrow(slots[i] ? slots[i] : Py_None));
  return std::ranges::all_of(elements_, [this](PyRef& element) { return encode(element); });
}

void ByteStrings::write(std::byte* to) const noexcept {
  for (const PyRef& element : elements_) {
    const auto length = static_cast<std::uint32_t>(PyBytes_Size(element.get()));
    std::memcpy(to, &length, kStringLengthBytes);
    std::memcpy(to + kStringLengthBytes, PyBytes_AsString(element.get()), length);
    to += kStringLengthBytes + length;
  }
}

}  // namespace tensorferry::stub
