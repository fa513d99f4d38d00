// One answer out of several: calls once, when the last part is done, with the first error there
// was.
#pragma once

#include <tensorferry/transport/error.h>

#include <cstddef>
#include <functional>
#include <mutex>
#include <utility>

namespace tensorferry {

// Thread-safe; shared by its parts.
class Countdown {
 public:
  using Done = std::move_only_function<void(Result<void>)>;
  Countdown(std::size_t parts, Done done) : left_(parts), done_(std::move(done)) {}

  void part_done(Result<void> how) {
    {
      std::scoped_lock lock(mutex_);
      if (!how && outcome_) outcome_ = std::move(how);
      if (--left_ > 0) return;
    }
    done_(std::move(outcome_));
  }

 private:
  std::mutex mutex_;  // guards what follows; done_ is called without it, by the last
  std::size_t left_;
  Result<void> outcome_;
  Done done_;
};

}  // namespace tensorferry
