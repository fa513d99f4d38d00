// When we look at an event that isn't done: a host thread that spins costs a core, one that sleeps
// is late by a wake-up and by what it overslept.
//
// Work of one kind takes about the same time again, so that one sleep up to where it is nearly done
// and a short spin from there are enough (Linux' hybrid polling of block devices does the same with
// half of the mean). What is not done then is looked at in ever longer steps: late by a sixteenth
// of the time that it takes, and by no more than 200 us.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>

namespace tensorferry::cuda {

using PollTime = std::chrono::nanoseconds;
inline constexpr PollTime kSpin = std::chrono::microseconds(20);
inline constexpr PollTime kLongestSpin = std::chrono::microseconds(100);
inline constexpr PollTime kShortestNap = std::chrono::microseconds(10);
inline constexpr PollTime kLongestNap = std::chrono::microseconds(200);

// How long to leave alone what was not done `elapsed` after it began, and is expected to be done
// after `expected` and within `spin` from there: no time for as long as we spin.
constexpr PollTime nap(PollTime elapsed, PollTime expected, PollTime spin) noexcept {
  if (elapsed < expected + spin) return PollTime::zero();
  return std::clamp(elapsed / 16, kShortestNap, kLongestNap);
}

// The least that an owner's work took of late. Too early costs some looks, too late is late: so
// what begins to take longer is followed by a sixteenth at a time, and what gets shorter by steps
// that double. One thread learns, and asks how long to spin; any may ask for the time.
class UsualTime {
 public:
  // Until when nobody needs to look.
  PollTime expected() const noexcept {
    const PollTime time(expected_.load(std::memory_order_relaxed));
    return time < kSpin ? PollTime::zero() : time;
  }
  // For how long it pays to spin from there: where the times differ much, it doesn't.
  PollTime spin() const noexcept {
    return 2 * spread_ > kLongestSpin ? kSpin : std::clamp(4 * spread_, kSpin, kLongestSpin);
  }
  // One was found done, that wasn't yet so long after it began; none where the first look found it
  // done, nobody knows since when.
  void learn(std::optional<PollTime> not_done_at) noexcept {
    PollTime time(expected_.load(std::memory_order_relaxed));
    const PollTime sixteenth = std::max(time / 16, kSpin / 8);
    const PollTime after = std::max(not_done_at.value_or(time) - time, PollTime::zero());
    spread_ += (std::min(after, 2 * kLongestSpin) - spread_) / 8;
    if (not_done_at) {
      step_ = PollTime::zero();
      const PollTime nearly =
          std::clamp(*not_done_at - kSpin / 2, PollTime::zero(), kLongestExpected);
      time = nearly < time ? nearly : time + std::min((nearly - time) / 4, sixteenth);
    } else {
      step_ = std::clamp(2 * step_, std::max(sixteenth, kSpin), kLongestExpected);
      time -= std::min(step_, time / 2);
    }
    expected_.store(time.count(), std::memory_order_relaxed);
  }

 private:
  static constexpr PollTime kLongestExpected = std::chrono::milliseconds(100);
  std::atomic<PollTime::rep> expected_{0};
  // The learner's.
  PollTime step_{0};
  PollTime spread_{0};  // what they take longer than expected
};

// How late sleeps end here.
class Oversleep {
 public:
  // When to be woken so as to be there at `due`: some time from now in any case.
  std::chrono::steady_clock::time_point alarm(std::chrono::steady_clock::time_point now,
                                              std::chrono::steady_clock::time_point due) const {
    return std::max(due - usual_, std::min(due, now + kShortestNap));
  }
  void learn(PollTime late) noexcept { usual_ += (std::min(late, kLongestNap) - usual_) / 8; }

 private:
  PollTime usual_{0};
};

}  // namespace tensorferry::cuda
