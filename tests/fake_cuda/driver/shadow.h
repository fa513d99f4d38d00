// Who touched each piece of memory last: one write and three reads for every 512 bytes, in words
// that any process may swap.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace fakecuda {

inline constexpr std::uint64_t kGranule = 512;

// One access in 64 bits; all zero: none. Its bytes are kept in steps of four.
struct Access {
  std::uint64_t epoch = 0;     // 26 bits
  std::uint64_t timeline = 0;  // 8 bits
  std::uint64_t begin = 0;     // first and
  std::uint64_t end = 0;       // past the last quarter-word of the granule
  std::uint64_t site = 0;      // 15 bits

  static Access unpack(std::uint64_t word) {
    return {word & 0x3ffffff, (word >> 26) & 0xff, (word >> 34) & 0x7f, (word >> 41) & 0xff,
            word >> 49};
  }
  std::uint64_t pack() const {
    return (epoch & 0x3ffffff) | timeline << 26 | begin << 34 | end << 41 | (site & 0x7fff) << 49;
  }
  bool overlaps(const Access& other) const { return begin < other.end && other.begin < end; }
};

struct ShadowEntry {
  std::atomic<std::uint64_t> write{0};
  std::array<std::atomic<std::uint64_t>, 3> reads{};

  void clear() {
    write = 0;
    for (auto& read : reads) read = 0;
  }
};
static_assert(sizeof(ShadowEntry) == 32);

inline std::uint64_t shadow_bytes(std::uint64_t size) {
  const std::uint64_t entries = (size + kGranule - 1) / kGranule;
  return (entries * sizeof(ShadowEntry) + 4095) / 4096 * 4096;
}

}  // namespace fakecuda
