// BYTES tensors (Triton's TYPE_STRING): for each element in C order a 4-byte little-endian length,
// then that many bytes.
#pragma once

#include <tensorferry/transport/error.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace tensorferry {

inline constexpr std::size_t kStringLengthBytes = 4;

// Goes through the elements of memory that another process may write meanwhile: each length is read
// once and checked against what is left, so no element ever leaves the memory. What lies in an
// element may still change: copy it out before it is believed.
class ByteStringReader {
 public:
  explicit ByteStringReader(std::span<const std::byte> encoded) noexcept : rest_(encoded) {}

  // The next element. Error InvalidArgument, in Triton's words: the memory ends within it.
  Result<std::span<const std::byte>> next() {
    if (rest_.size() < kStringLengthBytes)
      return failure(ErrorCode::InvalidArgument,
                     "Invalid bytes tensor data: incomplete length field");
    // Atomic: a compiler may otherwise read it again for the second use.
    const auto* from = reinterpret_cast<const std::uint8_t*>(rest_.data());
    std::uint32_t length = 0;
    for (std::size_t i = 0; i < kStringLengthBytes; ++i)
      length |= std::uint32_t{__atomic_load_n(from + i, __ATOMIC_RELAXED)} << (8 * i);
    rest_ = rest_.subspan(kStringLengthBytes);
    if (rest_.size() < length)
      return failure(ErrorCode::InvalidArgument,
                     "Invalid bytes tensor data: string extends beyond buffer");
    const auto element = rest_.first(length);
    rest_ = rest_.subspan(length);
    return element;
  }

  // That there are no more elements. Error InvalidArgument: bytes are left over.
  Result<void> finish() const {
    if (rest_.empty()) return {};
    return failure(ErrorCode::InvalidArgument,
                   "Invalid bytes tensor data: more bytes than elements");
  }

  // Asked before room is made for `count` elements: a shape costs its sender nothing.
  bool may_hold(std::size_t count) const noexcept {
    return count <= rest_.size() / kStringLengthBytes;
  }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace tensorferry
