// Waiting a little before sleeping: a few pauses (the peer answers within a microsecond when both
// are on a CPU of their own), then sched_yield (it runs when it shares ours), up to a budget that
// adapts to what waiting has paid lately. Figures: on two CPUs a hand-over by spinning takes 0.1 us
// and by futex 20-40 us; on one CPU yielding takes 4 us and pausing a time slice.
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
  // Returns true as soon as ready() does, false when the budget is used up: then sleep, and call
  // woke().
  template <class Ready>
  bool wait(Ready&& ready) noexcept {
    if (ready()) return true;
    for (int i = 0; i < pauses_; ++i) {
      cpu_pause();
      if (!ready()) continue;
      pauses_ = kPauses;
      return true;
    }
    // The peer shares our CPU, or takes longer than pausing is good for.
    pauses_ = std::max(1, pauses_ / 2);
    ::sched_yield();  // mostly enough when we share a CPU, and cheaper than to look at the clock
    if (ready()) return true;
    begin_ = std::chrono::steady_clock::now();
    for (;;) {
      if (ready()) {
        budget_ = std::min(kLargest, 2 * (std::chrono::steady_clock::now() - begin_) + kSmallest);
        return true;
      }
      if (std::chrono::steady_clock::now() - begin_ > budget_) return false;
      ::sched_yield();
    }
  }

  // After the sleep: would spinning longer have met what came? Then do, the next time; else spin
  // less.
  void woke() noexcept {
    auto waited = std::chrono::steady_clock::now() - begin_;
    budget_ = waited < kLargest ? kLargest : std::max(kSmallest, budget_ / 2);
  }

 private:
  using Duration = std::chrono::steady_clock::duration;
  static constexpr int kPauses = 24;
  static constexpr Duration kSmallest = std::chrono::microseconds(5);
  static constexpr Duration kLargest = std::chrono::microseconds(100);
  int pauses_ = kPauses;
  Duration budget_ = std::chrono::microseconds(50);
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace tensorferry
