#include "call_state.h"

#include "scheduler.h"

namespace tensorferry::server {

void CallState::prepare(std::shared_ptr<Scheduler> scheduler, Request&& request,
                        std::function<void()> on_done, const Deadline& deadline) {
  scheduler_ = std::move(scheduler);
  std::swap(request_, request);  // keeps the memory of both
  error_.reset();
  on_done_ = std::move(on_done);
  finished_.store(false, std::memory_order_relaxed);
  completion_.reset();
  batch_size_ = 1;
  deadline_ = deadline;
  submitted_ = std::chrono::steady_clock::now();
  renumber();
  queued_.begin(Phase::Queue, number());
}

void CallState::recycle() {
  request_.clear();
  response_.clear();
  late_.clear();
  on_done_ = {};
  scheduler_.reset();
  link_.reset();
}

void CallState::assign(std::shared_ptr<StubLink> link) {
  {
    std::scoped_lock lock(mutex_);
    link_ = std::move(link);
    queued_.end();
    if (!link_) queued_.begin(Phase::Queue, number());
  }
  assigned_.notify_one();
}

void CallState::respond(const Error* error, bool empty, bool final) noexcept {
  // One response, or an error, ends the wait; what comes after it is a later issue's streams.
  if (!final && empty) return;
  finish(error);
}

// May be called by several threads at once: whoever reads the ring, a supervisor, the caller. None
// of them touches response_ here, since another may be writing it.
bool CallState::finish(const Error* error) noexcept {
  if (finished_.exchange(true, std::memory_order_acq_rel)) return false;
  if (error) error_ = *error;
  auto took = std::chrono::steady_clock::now() - submitted_;
  scheduler_->count_finished(*this, error ? std::optional(error->code) : std::nullopt, took);
  // After the signal the waiting thread may reuse this object, so the callback and the lock come
  // first.
  std::function<void()> on_done = std::move(on_done_);
  on_done_ = {};
  auto self = shared_from_this();
  {
    std::scoped_lock lock(mutex_);
    queued_.end();
    completion_.signal();
  }
  assigned_.notify_one();
  if (on_done) on_done();
  return true;
}

bool CallState::wait(const Deadline& deadline) {
  Span span(Phase::Wait, number());
  expects(!waiting_.exchange(true, std::memory_order_acq_rel),
          "one thread at a time waits for a call");
  const bool answered = wait_alone(deadline);
  waiting_.store(false, std::memory_order_release);
  return answered;
}

bool CallState::wait_alone(const Deadline& deadline) {
  while (!completion_.done()) {
    std::shared_ptr<StubLink> link;
    {
      std::unique_lock lock(mutex_);
      auto may_go_on = [&] { return link_ || completion_.done(); };
      if (!deadline) {
        assigned_.wait(lock, may_go_on);
      } else if (!assigned_.wait_until(lock, *deadline, may_go_on)) {
        return false;
      }
      link = link_;
    }
    if (completion_.done()) break;
    WaitStatus status = link->inbox().wait(completion_, deadline);
    if (status == WaitStatus::TimedOut) return completion_.done();
    if (status == WaitStatus::Failed) {
      // The stub is gone or lies: its supervisor fails or requeues this call in a moment.
      link->wake_supervisor();
      std::unique_lock lock(mutex_);
      auto moved = [&] { return link_ != link || completion_.done(); };
      if (!deadline) {
        assigned_.wait(lock, moved);
      } else if (!assigned_.wait_until(lock, *deadline, moved)) {
        return false;
      }
    }
  }
  return true;
}

Result<void> CallState::take(Response& response) {
  expects(completion_.done(), "take() comes after wait() returned true");
  if (error_) return std::unexpected(*error_);
  std::swap(response, response_);
  return {};
}

void CallState::cancel(ErrorCode code, std::string why) {
  if (done()) return;
  auto self = shared_from_this();
  std::shared_ptr<StubLink> link;
  {
    std::scoped_lock lock(mutex_);
    link = link_;
  }
  const Error error{code, std::move(why), {scheduler_->model_name(), {}, request_.id}};
  scheduler_->forget(*this);
  if (!finish(&error) || !link) return;
  link->inbox().interrupt();  // the thread that waits for it may be reading
  link->cancel(*this);
}

}  // namespace tensorferry::server
