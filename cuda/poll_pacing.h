// How we look at events that aren't done: the device answers most within some microseconds, and a
// host thread that sleeps is late by its wake-up.
#pragma once

#include <sched.h>
#include <tensorferry/transport/deadline.h>

#include <algorithm>
#include <chrono>
#include <optional>
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
  // and then it is tried again. Until `least` it goes on in any case.
  template <class Ready>
  bool wait(Ready&& ready, Clock::time_point least = {}) {
    if (ready()) return true;
    const auto end = std::max(Clock::now() + budget_, least);
    while (Clock::now() < end) {
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

// How long after the beginning of a wait its event is done. Work on a device takes much the same
// time again and again: then it pays to be awake just before.
class Forecast {
 public:
  void note(std::chrono::nanoseconds took) noexcept {
    const auto off = took - typical_;
    const bool is_first = typical_ == std::chrono::nanoseconds{0};
    typical_ = is_first ? took : typical_ + off / 4;
    spread_ = is_first ? took / 4 : spread_ + (std::chrono::abs(off) - spread_) / 4;
  }
  // From when to when; nothing where it differs too much from one time to the next.
  struct Window {
    Clock::time_point begin, end;
  };
  std::optional<Window> window(Clock::time_point since) const noexcept {
    if (typical_ == std::chrono::nanoseconds{0} || spread_ > kWidest) return std::nullopt;
    const auto half = kNarrowest + spread_;
    return Window{since + typical_ - half, since + typical_ + half};
  }

 private:
  static constexpr std::chrono::microseconds kNarrowest{30};  // what a short sleep is late by
  static constexpr std::chrono::microseconds kWidest{60};
  std::chrono::nanoseconds typical_{0}, spread_{0};  // 0: of nothing yet
};

}  // namespace tensorferry::cuda
