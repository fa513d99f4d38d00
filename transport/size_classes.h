// The sizes that an arena rounds up to: four steps per power of two, so that at most a fifth of a
// block is lost, 64-byte multiples below a page and whole pages from there.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

namespace tensorferry {

inline constexpr std::size_t kBlockAlignment = 64;
inline constexpr std::size_t kPage = 4096;

struct SizeClass {
  std::size_t index = 0;
  std::size_t bytes = 0;  // what a block of the class takes
};

// What has a class: nothing larger is ever handed out.
inline constexpr std::size_t kLargestBlock = std::size_t{1} << 46;
inline constexpr std::size_t kSizeClasses = 4 * 46;

// `bytes` is at most kLargestBlock.
constexpr SizeClass size_class(std::size_t bytes) {
  bytes = std::max(bytes, kBlockAlignment);
  std::size_t power =
      std::bit_width(bytes - 1) - 1;  // 2^power < bytes <= 2^(power+1), or bytes == 64
  std::size_t step = std::max<std::size_t>((std::size_t{1} << power) / 4, kBlockAlignment);
  if (bytes > kPage / 2) step = std::max(step, kPage);
  std::size_t rounded = (bytes + step - 1) / step * step;
  const int top = std::bit_width(rounded - 1) - 1;
  const std::size_t quarter = ((rounded - 1) >> std::max(top - 2, 0)) & 3;
  return {4 * static_cast<std::size_t>(top) + quarter, rounded};
}

}  // namespace tensorferry
