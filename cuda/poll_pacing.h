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

namespace tensorferry::cuda {

using PollTime = std::chrono::nanoseconds;
inline constexpr PollTime kSpin = std::chrono::microseconds(20);
inline constexpr PollTime kShortestNap = std::chrono::microseconds(10);
inline constexpr PollTime kLongestNap = std::chrono::microseconds(200);

// How long to leave alone what was not done `elapsed` after it began, and is expected to be done
// soon after `expected`: nothing for as long as we spin.
constexpr PollTime nap(PollTime elapsed, PollTime expected) noexcept {
  if (elapsed < expected + kSpin) return PollTime::zero();
  return std::clamp(elapsed / 16, kShortestNap, kLongestNap);
}

// What begins to take long is learned slowly, what gets shorter at once: too early costs some
// looks, too late is late. So it settles near the shortest times of late.
// One thread learns, any may ask.
class UsualTime {
 public:
  // Until when nobody needs to look.
  PollTime expected() const noexcept {
    const PollTime time(expected_.load(std::memory_order_relaxed));
    return time < kSpin ? PollTime::zero() : time;
  }
  // One was found done so long after it began, by the first look or by a later one. The first one
  // doesn't know for how long it was done already.
  void learn(PollTime took, bool by_first_look) noexcept {
    PollTime time(expected_.load(std::memory_order_relaxed));
    const PollTime nearly = std::clamp(took - kSpin / 2, PollTime::zero(), kLongestExpected);
    if (by_first_look)
      time /= 2;
    else
      time = nearly < time ? nearly : time + (nearly - time) / 16;
    expected_.store(time.count(), std::memory_order_relaxed);
  }

 private:
  static constexpr PollTime kLongestExpected = std::chrono::milliseconds(100);
  std::atomic<PollTime::rep> expected_{0};
};

}  // namespace tensorferry::cuda
