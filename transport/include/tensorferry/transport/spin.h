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

// What a spin does besides looking; tests put their own in its place.
struct ThisCpu {
  static std::chrono::steady_clock::time_point now() noexcept {
    return std::chrono::steady_clock::now();
  }
  static void pause() noexcept { cpu_pause(); }
  static void yield() noexcept { ::sched_yield(); }
};

template <class Cpu>
class AdaptiveSpinOn {
  using Duration = std::chrono::steady_clock::duration;

 public:
  // Returns true as soon as ready() does, false when the budget is used up: then sleep, and call
  // woke().
  template <class Ready>
  bool wait(Ready&& ready) noexcept {
    if (ready()) return true;
    for (int i = 0; i < pauses_; ++i) {
      Cpu::pause();
      if (ready()) return true;
    }
    // We share a CPU, as it seems: then the clock is looked at now and then only.
    if (pauses_ == 1 && ++in_vain_ % kLearnEvery != 0) {
      Cpu::yield();
      if (ready()) return true;
    }
    begin_ = Cpu::now();
    bool switched = false;
    for (auto now = begin_; now - begin_ <= budget_;) {
      Cpu::yield();
      const auto back = Cpu::now();
      switched |= back - now > kSwitch;
      now = back;
      if (!ready()) continue;
      budget_ = std::min(kLargest, 2 * (now - begin_) + kSmallest);
      learn(switched);
      return true;
    }
    learn(true);
    return false;
  }

  // After the sleep: would spinning longer have met what came? Then do, the next time; else spin
  // less.
  void woke() noexcept {
    auto waited = Cpu::now() - begin_;
    budget_ = waited < kLargest ? kLargest : std::max(kSmallest, budget_ / 2);
  }

 private:
  // Tells two cases apart. Yields that came back at once, and the answer is there: the peer has a
  // CPU of its own, and pausing longer saves the system calls. One that let somebody else run, or
  // no answer at all: pausing only keeps the peer from our CPU.
  void learn(bool pausing_is_vain) noexcept {
    pauses_ = pausing_is_vain ? std::max(1, pauses_ / 2) : std::min(kMostPauses, 2 * pauses_);
  }

  static constexpr int kFirstPauses = 24;
  static constexpr int kMostPauses = 192;  // some 10 us
  static constexpr Duration kSwitch = std::chrono::nanoseconds(1500);
  static constexpr Duration kSmallest = std::chrono::microseconds(5);
  static constexpr Duration kLargest = std::chrono::microseconds(100);
  static constexpr unsigned kLearnEvery = 16;
  int pauses_ = kFirstPauses;
  unsigned in_vain_ = 0;
  Duration budget_ = std::chrono::microseconds(50);
  std::chrono::steady_clock::time_point begin_;
};

using AdaptiveSpin = AdaptiveSpinOn<ThisCpu>;

}  // namespace tensorferry
