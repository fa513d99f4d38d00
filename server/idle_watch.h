// Lets one thread sleep while a server is idle, and be woken by the first work that comes: what
// gives idle memory back neither polls nor costs a request more than a load.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace tensorferry::server {

// Thread-safe; wait() by one thread.
class IdleWatch {
 public:
  // There is work: called after what `idle` looks at has changed.
  void work() noexcept {
    if (asleep_.load(std::memory_order_seq_cst)) wake();
  }

  // Sleeps for `period`; or, when `idle` says that nothing happens, until there is work and for
  // `period` then. False once stopped.
  template <class Idle>
  bool wait(std::chrono::milliseconds period, Idle&& idle) {
    std::unique_lock lock(mutex_);
    // The flag and what `idle` looks at are a Dekker pair: each side writes one, then reads the
    // other.
    asleep_.store(true, std::memory_order_seq_cst);
    if (idle()) changed_.wait(lock, [this] { return stopped_ || !asleep_; });
    asleep_.store(false, std::memory_order_relaxed);
    return !changed_.wait_for(lock, period, [this] { return stopped_; });
  }

  void stop() noexcept {
    {
      std::scoped_lock lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
  }

 private:
  void wake() noexcept {
    {
      std::scoped_lock lock(mutex_);
      asleep_.store(false, std::memory_order_relaxed);
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> asleep_{false};
  bool stopped_ = false;  // under mutex_
};

}  // namespace tensorferry::server
