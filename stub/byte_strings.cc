#include "byte_strings.h"

#include <tensorferry/transport/byte_strings.h>

#include <cstring>

#include "py_type.h"

namespace tensorferry::stub {
namespace {

PyRef next_element(ByteStringWalk& walk) {
  switch (walk.next()) {
    case ByteStringWalk::Step::Element:
      return PyRef(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(walk.element().data()),
                                             static_cast<Py_ssize_t>(walk.element().size())));
    case ByteStringWalk::Step::CutElement:
      raise_model_exception("Invalid bytes tensor data: string extends beyond buffer");
      return {};
    case ByteStringWalk::Step::End:
    case ByteStringWalk::Step::CutLength:
      break;
  }
  raise_model_exception("Invalid bytes tensor data: incomplete length field");
  return {};
}

}  // namespace

PyRef decode_byte_strings(const Memory& memory) {
  if (!numpy::load()) return {};
  PyRef array = numpy::object_array(memory.shape);
  if (!array) return {};
  const numpy::Array* slots = numpy::as_array(array.get());
  const std::size_t count = numpy::bytes_of(*slots, 1);
  ByteStringWalk walk({memory.data, memory.bytes});
  for (std::size_t i = 0; i < count; ++i) {
    PyRef element = next_element(walk);
    if (!element) return {};
    auto* slot = reinterpret_cast<PyObject**>(slots->data) + i;
    Py_XDECREF(std::exchange(*slot, element.release()));
  }
  if (walk.next() == ByteStringWalk::Step::End) return array;
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
  bytes_ += kByteStringLengthBytes + size;
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
    std::memcpy(to, &length, kByteStringLengthBytes);
    std::memcpy(to + kByteStringLengthBytes, PyBytes_AsString(element.get()), length);
    to += kByteStringLengthBytes + length;
  }
}

}  // namespace tensorferry::stub
