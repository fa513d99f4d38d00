// Waiting a little before sleeping: a few pauses (the peer answers within a microsecond when both are on a
// CPU of their own), then sched_yield (it runs when it shares ours), up to a budget that adapts to what waiting has
// paid lately. Figures: on two CPUs a hand-over by spinning takes 0.1 us and by futex 20-40 us; on one CPU
// yielding takes 4 us and pausing a time slice.
#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace tensorferry {

inline void cpu_pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class AdaptiveSpin {
 public:
  // Returns true as soon as ready() does, false when the budget is used up.
  template <class Ready>
  bool wait(Ready&& ready) noexcept {
    for (int i = 0; i < kPauses; ++i) {
      if (ready()) return true;
      cpu_pause();
    }
    auto begin = std::chrono::steady_clock::now();
    for (;;) {
      if (ready()) {
        budget_ns_ = std::min(kLargestNs, budget_ns_ * 2);
        return true;
      }
      if (std::chrono::steady_clock::now() - begin > std::chrono::nanoseconds(budget_ns_)) break;
      ::sched_yield();
    }
    budget_ns_ = std::max(kSmallestNs, budget_ns_ / 2);
    return false;
  }

 private:
  static constexpr int kPauses = 24;
  static constexpr std::int64_t kSmallestNs = 2'000;
  static constexpr std::int64_t kLargestNs = 100'000;
  std::int64_t budget_ns_ = 50'000;
};

}  // namespace tensorferry
