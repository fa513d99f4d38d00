// One thread of a server for what may take long and nobody waits for.
#pragma once

#include <tensorferry/server/void_after_fork.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace tensorferry::server {

// Thread-safe. The thread is made with the first job.
class Background {
 public:
  using Job = std::move_only_function<void()>;

  Background() = default;
  // Waits for the job that is running; those that wait are dropped.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Runs it later, in the order in which they come. False where no thread can be had.
  bool run(Job job) noexcept;

 private:
  struct Impl;
  // Kept for ever in a forked child, where the thread is gone and may have held the mutex.
  std::shared_ptr<Impl> impl_ = make();
  static std::shared_ptr<Impl> make();
  const Home home_;
};

}  // namespace tensorferry::server
