// Decides which requests go to which instance, and when. One strategy per model: in order of
// arrival to the least busy instance, in batches where the config asks for dynamic batching. No
// thread of its own but for a batching delay, and from the first request with a deadline on:
// whoever submits a request or reads an answer moves the queue on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "call_state.h"
#include "execution.h"
#include "model_counters.h"

namespace tensorferry::server {

struct SchedulerOptions {
  std::string model;
  std::int64_t max_batch_size = 0;  // 0: requests have no batch dimension
  bool dynamic_batching = false;
  std::vector<std::int64_t> preferred_batch_sizes;
  std::chrono::microseconds max_queue_delay{0};
  std::size_t max_queue = 65'536;
  // Batches inside one stub: one that runs and one that waits in its ring, so that it need not wait
  // for us.
  std::size_t depth = 2;
};

struct SchedulerCounts {
  std::uint64_t succeeded = 0, failed = 0, cancelled = 0, executions = 0;
  std::uint64_t queue_ns = 0, execute_ns = 0, total_ns = 0, stub_copied_bytes = 0;
  std::size_t queued = 0, in_flight = 0;
};

// Thread-safe. Instances are numbered from 0.
class Scheduler final : public InstanceEvents, public std::enable_shared_from_this<Scheduler> {
 public:
  Scheduler(SchedulerOptions options, std::size_t instances);
  ~Scheduler() override;

  // From now on a call that isn't finished by its deadline is cancelled. Errors: QueueFull, Closed,
  // System (no thread for the deadline).
  Result<void> submit(const std::shared_ptr<CallState>& call);
  // The same for one whose inputs are still on their way: it has its place in the queue, and enters
  // it, or fails, by queue(), which comes once, also from a thread that must not block. Errors: as
  // submit().
  Result<void> admit(const std::shared_ptr<CallState>& call);
  void queue(const std::shared_ptr<CallState>& call, Result<void> arrived);
  // Takes it out of the queue if it is there.
  void forget(CallState& call);
  // Where an instance's batches go from now on; nullptr while it has no stub.
  void set_link(std::size_t instance, std::shared_ptr<StubLink> link);
  // Refuses what comes from now on.
  void close(Error why);
  // Fails what still waits in the queue.
  void fail_queued(const Error& why);
  // True when nothing waits or runs any more; waits up to the deadline.
  bool drain(const Deadline& deadline);
  // Ends the timer's thread. Whoever loaded the model does it: the last to let go of
  // the scheduler may be that thread.
  void stop();

  const std::string& model_name() const noexcept { return options_.model; }
  SchedulerCounts counts() const;
  // Once per call that was submitted.
  void count_finished(const CallState& call, std::optional<ErrorCode> failed,
                      std::chrono::steady_clock::duration took) noexcept;

  // InstanceEvents
  void batch_done(std::size_t instance) noexcept override;
  void give_back(Batch batch) noexcept override;
  void executed(std::uint64_t execute_ns, std::uint64_t copied_bytes) noexcept override;

 private:
  struct Slot {
    std::shared_ptr<StubLink> link;
    std::size_t inside = 0;
  };
  using TimePoint = std::chrono::steady_clock::time_point;

  Result<void> admit(const std::shared_ptr<CallState>& call, bool queued_later);  // under mutex_
  // Sends what can be sent. Takes mutex_ locked, and unlocks it.
  void dispatch(std::unique_lock<std::mutex> lock);
  // A batch that `instance` did not take: it goes back, or fails where it can't be sent to anybody.
  void not_sent(Batch& batch, std::size_t instance, const StubLink* link, const Error& why);
  void put_back(Batch& batch);  // under mutex_, to the front
  // Under mutex_: the next batch and its instance, or false. `again` is set to when to look anew.
  bool next_batch(Batch& batch, std::size_t& instance, std::shared_ptr<StubLink>& link,
                  std::optional<TimePoint>& again);
  std::optional<std::size_t> least_busy() const;
  std::size_t batch_length(TimePoint now, std::optional<TimePoint>& again) const;
  void start_timer();
  void run_timer();
  // Under mutex_: when the timer has to do something.
  std::optional<TimePoint> next_alarm() const;
  // What is due. Takes mutex_ locked, and unlocks it.
  void cancel_overdue(std::unique_lock<std::mutex> lock);

  const SchedulerOptions options_;
  const ModelCounters seen_;  // from outside

  mutable std::mutex mutex_;                             // guards what follows
  std::pmr::unsynchronized_pool_resource queue_memory_;  // so that a warm queue allocates nothing
  std::pmr::deque<std::shared_ptr<CallState>> queue_{&queue_memory_};
  std::pmr::multimap<TimePoint, std::shared_ptr<CallState>> deadlines_{&queue_memory_};
  std::size_t arriving_ = 0;  // admitted, and not in the queue yet
  std::vector<Slot> slots_;
  std::vector<Batch> spare_batches_;
  std::optional<Error> closed_;
  SchedulerCounts counts_;
  std::optional<TimePoint> timer_at_;
  bool stopping_ = false;
  std::condition_variable timer_changed_;
  std::condition_variable drained_;
  std::thread timer_;
};

}  // namespace tensorferry::server
