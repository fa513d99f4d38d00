// The layout of BYTES tensors, Triton's own: before each element its length in 4 bytes,
// little-endian, in C order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace tensorferry {

inline constexpr std::size_t kByteStringLengthBytes = 4;

// Walks over the elements. The bytes may change under the walk, since a peer may still write them:
// each length is read once, and an element never reaches beyond the end.
class ByteStringWalk {
 public:
  enum class Step : std::uint8_t {
    Element,     // element() is the next one
    End,         // nothing is left
    CutLength,   // fewer bytes are left than a length takes
    CutElement,  // the length reaches beyond what is left
  };

  explicit ByteStringWalk(std::span<const std::byte> bytes) noexcept : rest_(bytes) {}

  Step next() noexcept {
    if (rest_.empty()) return Step::End;
    if (rest_.size() < kByteStringLengthBytes) return Step::CutLength;
    std::uint32_t length = 0;
    std::memcpy(&length, rest_.data(), kByteStringLengthBytes);
    rest_ = rest_.subspan(kByteStringLengthBytes);
    if (rest_.size() < length) return Step::CutElement;
    element_ = rest_.first(length);
    rest_ = rest_.subspan(length);
    return Step::Element;
  }
  std::span<const std::byte> element() const noexcept { return element_; }

 private:
  std::span<const std::byte> rest_;
  std::span<const std::byte> element_;
};

}  // namespace tensorferry
