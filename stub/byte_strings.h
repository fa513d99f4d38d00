// BYTES tensors: Triton's layout (a 4-byte little-endian length before each element) and object
// arrays of bytes.
#pragma once

#include <span>
#include <vector>

#include "memory_object.h"
#include "numpy_api.h"
#include "py.h"

namespace tensorferry::stub {

// An object array of bytes in the memory's shape, read as transport/byte_strings.h does. nullptr
// with pb_utils' exception set where the layout is wrong.
PyRef decode_byte_strings(const Memory& memory);

// The elements of an array in C order, ready to be written: bytes as they are, anything else by
// str() in UTF-8.
class ByteStrings {
 public:
  // False with an exception set.
  bool collect(const numpy::Array& array);
  std::size_t encoded_bytes() const noexcept { return bytes_; }
  void write(std::byte* to) const noexcept;  // encoded_bytes() of them

 private:
  bool encode(PyRef& element);
  std::vector<PyRef> elements_;  // bytes objects
  std::size_t bytes_ = 0;
};

}  // namespace tensorferry::stub
