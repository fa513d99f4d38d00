// A submitted request from submit to take: where it waits, who runs it, how it ended.
#pragma once

#include <tensorferry/server/model.h>
#include <tensorferry/transport/inbox.h>
#include <tensorferry/transport/trace.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "execution.h"
#include "stub_link.h"

namespace tensorferry::server {

class Scheduler;

// Life: queued → assigned (in a stub) → done; or back to queued when a stub died before it began.
// Thread-safe as said at each function.
class CallState final : public Execution, public std::enable_shared_from_this<CallState> {
 public:
  // New or reused: nobody else may hold it.
  void prepare(std::shared_ptr<Scheduler> scheduler, Request&& request,
               std::function<void()> on_done, const Deadline& deadline = {});
  // One that could not be queued: what prepare() took.
  void give_back(Request& request, std::function<void()>& on_done) noexcept {
    std::swap(request_, request);
    on_done = std::move(on_done_);
  }
  // Makes a finished one ready to be pooled: lets go of everything but memory. Nobody else may hold
  // it: whoever still does (a stub that was never asked to stop, a batch on its way) may read the
  // request and write a response.
  void recycle();

  // Any thread.
  const Request& request() const noexcept override { return request_; }
  // What comes after the outcome is decided goes where no caller looks.
  Response& response() noexcept override {
    return finished_.load(std::memory_order_acquire) ? late_ : response_;
  }
  void respond(const Error* error, bool empty, bool final) noexcept override;
  void fail(const Error& error) noexcept { respond(&error, false, true); }
  bool done() const noexcept { return completion_.done(); }
  void cancel(ErrorCode code, std::string why);

  // The waiting thread.
  bool wait(const Deadline& deadline);
  Result<void> take(Response& response);

  // The scheduler, under its lock: which stub has it (none: back in the queue).
  void assign(std::shared_ptr<StubLink> link);
  std::int64_t batch_size() const noexcept { return batch_size_; }
  void set_batch_size(std::int64_t size) noexcept { batch_size_ = size; }
  std::chrono::steady_clock::time_point submitted() const noexcept { return submitted_; }
  const Deadline& deadline() const noexcept { return deadline_; }  // the scheduler keeps it

 private:
  bool wait_alone(const Deadline& deadline);
  // False when the outcome was decided before.
  bool finish(const Error* error) noexcept;

  std::shared_ptr<Scheduler> scheduler_;
  Request request_;
  Response response_;  // the reading thread's until the outcome is decided, then the caller's
  Response late_;      // the reading thread's
  std::optional<Error> error_;
  std::function<void()> on_done_;
  std::atomic<bool> finished_{false};  // the first to set it decides the outcome
  std::atomic<bool> waiting_{false};
  Completion completion_;
  std::int64_t batch_size_ = 1;
  std::chrono::steady_clock::time_point submitted_;
  Deadline deadline_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable assigned_;
  std::shared_ptr<StubLink> link_;
  AsyncSpan queued_;
};

}  // namespace tensorferry::server
