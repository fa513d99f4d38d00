// How long to wait before a dead stub is started again.
#pragma once

#include <algorithm>
#include <chrono>

namespace tensorferry::server {

// Exponential backoff: at once after the first death, then doubling; a stub that lived long enough
// starts the count anew. One thread at a time.
class RestartPolicy {
 public:
  using Milliseconds = std::chrono::milliseconds;
  static constexpr Milliseconds kFirst{100};
  static constexpr Milliseconds kLongest{30'000};
  static constexpr Milliseconds kStable{60'000};  // a life this long is a good one

  Milliseconds next_delay(std::chrono::steady_clock::duration lived) {
    if (lived >= kStable) failures_ = 0;
    Milliseconds delay{0};
    if (failures_ > 0) delay = std::min(kLongest, kFirst * (1 << std::min(failures_ - 1, 16)));
    ++failures_;
    return delay;
  }

 private:
  int failures_ = 0;
};

}  // namespace tensorferry::server
