// Vector clocks. A timeline is a stream that touches memory, of any process; its epoch counts its
// operations. A clock says, for each timeline, up to which epoch all is known to have happened
// before.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fakecuda {

inline constexpr std::size_t kTimelines = 256;  // 0 is none

using Clock = std::array<std::uint32_t, kTimelines>;
using SharedClock = std::array<std::atomic<std::uint32_t>, kTimelines>;

inline void merge(Clock& into, const Clock& from) {
  for (std::size_t i = 0; i < kTimelines; ++i) into[i] = std::max(into[i], from[i]);
}

inline void merge(Clock& into, const SharedClock& from) {
  for (std::size_t i = 0; i < kTimelines; ++i)
    into[i] = std::max(into[i], from[i].load(std::memory_order_relaxed));
}

inline void merge(SharedClock& into, const Clock& from) {
  for (std::size_t i = 0; i < kTimelines; ++i) {
    std::uint32_t seen = into[i].load(std::memory_order_relaxed);
    while (seen < from[i] && !into[i].compare_exchange_weak(seen, from[i])) {
    }
  }
}

inline void assign(SharedClock& into, const Clock& from) {
  for (std::size_t i = 0; i < kTimelines; ++i) into[i].store(from[i], std::memory_order_relaxed);
}

}  // namespace fakecuda
