// Reads numbers and byte ranges off a span, never beyond its end.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace tensorferry {

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}

  std::size_t left() const noexcept { return bytes_.size(); }

  template <class T>
  bool number(T& value) noexcept {
    if (bytes_.size() < sizeof(T)) return false;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return true;
  }

  bool bytes(std::size_t count, std::span<const std::byte>& out) noexcept {
    if (bytes_.size() < count) return false;
    out = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return true;
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace tensorferry
