// How we look at events that aren't done: the device answers most within some microseconds, and a
// host thread that sleeps is late by its wake-up.
#pragma once

#include <sched.h>
#include <tensorferry/transport/deadline.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace tensorferry::cuda {

inline constexpr std::chrono::microseconds kLongestSpin{20};
inline constexpr std::chrono::microseconds kShortestSleep{50};
inline constexpr std::chrono::microseconds kLongestSleep{200};

// Looks again and again for a short while. A look is some calls of the driver, so that it is the
// clock that ends it.
class BriefSpin {
 public:
  // Returns true as soon as ready() does. Less time is spent on it when it was in vain lately; now
  // and then it is tried again.
  template <class Ready>
  bool wait(Ready&& ready) {
    if (ready()) return true;
    const auto begin = Clock::now();
    while (Clock::now() - begin < budget_) {
      ::sched_yield();
      if (!ready()) continue;
      budget_ = kLongestSpin;
      return true;
    }
    budget_ = ++in_vain_ % kTryAgain == 0 ? kLongestSpin : std::max(kShortestSpin, budget_ / 2);
    return false;
  }

 private:
  static constexpr std::chrono::microseconds kShortestSpin{2};
  static constexpr unsigned kTryAgain = 16;
  std::chrono::microseconds budget_ = kLongestSpin;
  unsigned in_vain_ = 0;
};

// Sleeps in a row get longer.
class SleepPacing {
 public:
  std::chrono::microseconds next() noexcept {
    return std::exchange(sleep_, std::min(kLongestSleep, sleep_ * 2));
  }
  void reset() noexcept { sleep_ = kShortestSleep; }

 private:
  std::chrono::microseconds sleep_ = kShortestSleep;
};

}  // namespace tensorferry::cuda
