// The one thread of a server that looks whether events are done. Nobody else on the path of a
// request asks the driver that, and nobody waits for it.
//
// It sleeps for as long as the owner's events took at least of late, then spins for 20 us, for up
// to 100 with few in flight, then sleeps 10 to 200 us at a time, and without any limit when nothing
// is in flight (poll_pacing.h).
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace tensorferry::cuda {

struct PollerStatistics {
  std::uint64_t completed = 0;  // callbacks, with or without an error
  std::uint64_t queries = 0;    // of the driver
  std::uint64_t sleeps = 0;     // short ones, while something was in flight
  std::uint64_t in_flight = 0;
};

// Thread-safe. The thread is made with the first watch().
class CompletionPoller {
 public:
  // Called once, on the poller's thread, with no context current: it must not block. The error is
  // the driver's (gpu_sticky), that of cancel(), or Closed at the end.
  using Done = std::move_only_function<void(Result<void>)>;

  CompletionPoller();
  // Calls what is left with Closed: before it returns, or soon when it is destroyed by a callback.
  ~CompletionPoller();
  CompletionPoller(const CompletionPoller&) = delete;
  CompletionPoller& operator=(const CompletionPoller&) = delete;

  // Looks at the event, which was recorded, until it is done. `owner` is any number that cancel()
  // will name: a stub's. The event lives, and is not recorded anew, until `done` is called. Wakes
  // the thread by one system call, if it sleeps beyond when it has to look at this one.
  void watch(EventHandle event, std::uint64_t owner, Done done);
  // The owner is dead, and its events may never be done: what it is waited for fails with `why`,
  // soon. Returns at once; what the owner is watched for later is not affected.
  void cancel(std::uint64_t owner, Error why);

  PollerStatistics statistics() const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tensorferry::cuda
