#include "scheduler.h"

#include <algorithm>
#include <iterator>

namespace tensorferry::server {

Scheduler::Scheduler(SchedulerOptions options, std::size_t instances)
    : options_(std::move(options)), seen_(options_.model), slots_(instances) {
  if (options_.dynamic_batching && options_.max_queue_delay.count() > 0) start_timer();
}

Scheduler::~Scheduler() { stop(); }

void Scheduler::stop() {
  {
    std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  timer_changed_.notify_all();
  if (timer_.joinable()) timer_.join();
}

Result<void> Scheduler::admit(const std::shared_ptr<CallState>& call, bool queued_later) {
  if (closed_) return std::unexpected(*closed_);
  if (queue_.size() + arriving_ >= options_.max_queue) {
    return std::unexpected(
        Error{ErrorCode::QueueFull,
              "the queue of model '" + options_.model + "' is full (" +
                  std::to_string(options_.max_queue) +
                  " requests): send fewer at a time, or raise max_queue_size in its config",
              {options_.model, {}, call->request().id}});
  }
  if (call->deadline() || queued_later) {
    try {
      start_timer();
    } catch (const std::system_error& none) {
      return failure(
          ErrorCode::System,
          std::string("a thread for the request's deadline or its inputs: ") + none.what());
    }
  }
  if (call->deadline()) {
    const auto place = deadlines_.emplace(*call->deadline(), call);
    if (place == deadlines_.begin()) timer_changed_.notify_one();
  }
  ++counts_.in_flight;
  return {};
}

Result<void> Scheduler::submit(const std::shared_ptr<CallState>& call) {
  std::unique_lock lock(mutex_);
  if (auto admitted = admit(call, false); !admitted) return admitted;
  queue_.push_back(call);
  dispatch(std::move(lock));
  return {};
}

Result<void> Scheduler::admit(const std::shared_ptr<CallState>& call) {
  std::scoped_lock lock(mutex_);
  auto admitted = admit(call, true);
  if (admitted) ++arriving_;
  return admitted;
}

// The timer's thread sends it: whoever calls this must not wait for a stub's ring.
void Scheduler::queue(const std::shared_ptr<CallState>& call, Result<void> arrived) {
  {
    std::scoped_lock lock(mutex_);
    --arriving_;
    if (call->done()) return;  // cancelled meanwhile
    if (arrived && stopping_)
      arrived =
          std::unexpected(closed_.value_or(Error{ErrorCode::Closed, "the model was unloaded", {}}));
    if (arrived) {
      queue_.push_back(call);
      timer_at_ = std::chrono::steady_clock::now();
      timer_changed_.notify_one();
      return;
    }
  }
  arrived.error().context = {options_.model, {}, call->request().id};
  call->fail(arrived.error());
}

void Scheduler::forget(CallState& call) {
  std::scoped_lock lock(mutex_);
  std::erase_if(queue_, [&](const auto& queued) { return queued.get() == &call; });
}

void Scheduler::set_link(std::size_t instance, std::shared_ptr<StubLink> link) {
  std::unique_lock lock(mutex_);
  slots_[instance].link = std::move(link);
  slots_[instance].inside = 0;
  dispatch(std::move(lock));
}

void Scheduler::close(Error why) {
  std::scoped_lock lock(mutex_);
  if (!closed_) closed_ = std::move(why);
}

void Scheduler::fail_queued(const Error& why) {
  std::vector<std::shared_ptr<CallState>> failed;
  {
    std::scoped_lock lock(mutex_);
    failed.assign(std::move_iterator(queue_.begin()), std::move_iterator(queue_.end()));
    queue_.clear();
  }
  for (const auto& call : failed) {
    Error error = why;
    error.context.request_id = call->request().id;
    call->fail(error);
  }
}

bool Scheduler::drain(const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  auto empty = [this] { return counts_.in_flight == 0; };
  if (!deadline) {
    drained_.wait(lock, empty);
    return true;
  }
  return drained_.wait_until(lock, *deadline, empty);
}

SchedulerCounts Scheduler::counts() const {
  std::scoped_lock lock(mutex_);
  SchedulerCounts counts = counts_;
  counts.queued = queue_.size();
  return counts;
}

void Scheduler::count_finished(const CallState& call, std::optional<ErrorCode> failed,
                               std::chrono::steady_clock::duration took) noexcept {
  std::scoped_lock lock(mutex_);
  if (call.deadline()) {
    auto [first, last] = deadlines_.equal_range(*call.deadline());
    auto own =
        std::find_if(first, last, [&](const auto& one) { return one.second.get() == &call; });
    if (own != last) deadlines_.erase(own);
  }
  if (!failed) {
    ++counts_.succeeded;
    seen_.succeeded.add();
  } else if (*failed == ErrorCode::Cancelled || *failed == ErrorCode::DeadlineExceeded) {
    ++counts_.cancelled;
    seen_.cancelled.add();
  } else {
    ++counts_.failed;
    seen_.failed.add();
  }
  counts_.total_ns += static_cast<std::uint64_t>(std::chrono::nanoseconds(took).count());
  if (--counts_.in_flight == 0) drained_.notify_all();
}

void Scheduler::executed(std::uint64_t execute_ns, std::uint64_t copied_bytes) noexcept {
  seen_.executions.add();
  std::scoped_lock lock(mutex_);
  ++counts_.executions;
  counts_.execute_ns += execute_ns;
  counts_.stub_copied_bytes += copied_bytes;
}

void Scheduler::batch_done(std::size_t instance) noexcept {
  std::unique_lock lock(mutex_);
  if (slots_[instance].inside > 0) --slots_[instance].inside;
  dispatch(std::move(lock));
}

void Scheduler::give_back(Batch batch) noexcept {
  std::unique_lock lock(mutex_);
  put_back(batch);
  dispatch(std::move(lock));
}

void Scheduler::put_back(Batch& batch) {
  for (auto it = batch.rbegin(); it != batch.rend(); ++it) {
    auto call = std::static_pointer_cast<CallState>(*it);
    if (call->done()) continue;
    call->assign(nullptr);
    queue_.push_front(std::move(call));
  }
}

void Scheduler::not_sent(Batch& batch, std::size_t instance, const StubLink* link,
                         const Error& why) {
  {
    std::scoped_lock lock(mutex_);
    Slot& slot = slots_[instance];
    const bool still_there = slot.link.get() == link;
    if (why.code == ErrorCode::Unavailable) {
      if (still_there) slot.link = nullptr;  // its supervisor brings the next
      put_back(batch);
      return;
    }
    if (still_there && slot.inside > 0) --slot.inside;
  }
  for (const auto& execution : batch) {
    Error error = why;
    error.context.request_id = execution->request().id;
    execution->respond(&error, false, true);
  }
}

std::optional<std::size_t> Scheduler::least_busy() const {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].link || slots_[i].inside >= options_.depth) continue;
    if (!best || slots_[i].inside < slots_[*best].inside) best = i;
  }
  return best;
}

// How many of the queue's first requests make the next batch; 0: wait until `again`.
std::size_t Scheduler::batch_length(TimePoint now, std::optional<TimePoint>& again) const {
  if (!options_.dynamic_batching) return 1;
  std::int64_t total = 0;
  std::size_t length = 0, preferred_length = 0;
  bool full = false;  // the next one doesn't fit, so that nothing is gained by waiting
  for (const auto& call : queue_) {
    full = length > 0 && total + call->batch_size() > options_.max_batch_size;
    if (full) break;
    total += call->batch_size();
    ++length;
    if (std::ranges::find(options_.preferred_batch_sizes, total) !=
        options_.preferred_batch_sizes.end()) {
      preferred_length = length;
    }
  }
  if (full || total >= options_.max_batch_size || options_.max_queue_delay.count() == 0) {
    return preferred_length > 0 ? preferred_length : length;
  }
  if (preferred_length > 0) return preferred_length;
  TimePoint due = queue_.front()->submitted() + options_.max_queue_delay;
  if (now >= due) return length;
  again = due;
  return 0;
}

bool Scheduler::next_batch(Batch& batch, std::size_t& instance, std::shared_ptr<StubLink>& link,
                           std::optional<TimePoint>& again) {
  while (!queue_.empty() && queue_.front()->done())
    queue_.pop_front();  // cancelled on its way back
  if (queue_.empty()) return false;
  auto idle = least_busy();
  if (!idle) return false;
  auto now = std::chrono::steady_clock::now();
  std::size_t length = batch_length(now, again);
  if (length == 0) return false;
  instance = *idle;
  link = slots_[instance].link;
  ++slots_[instance].inside;
  if (!spare_batches_.empty()) {
    batch = std::move(spare_batches_.back());
    spare_batches_.pop_back();
  }
  for (std::size_t i = 0; i < length; ++i) {
    auto& call = queue_.front();
    counts_.queue_ns +=
        static_cast<std::uint64_t>(std::chrono::nanoseconds(now - call->submitted()).count());
    batch.push_back(std::move(call));
    queue_.pop_front();
  }
  return true;
}

void Scheduler::dispatch(std::unique_lock<std::mutex> lock) {
  while (true) {
    Batch batch;
    std::size_t instance = 0;
    std::shared_ptr<StubLink> link;
    std::optional<TimePoint> again;
    if (!next_batch(batch, instance, link, again)) {
      if (again && (!timer_at_ || *again < *timer_at_)) {
        timer_at_ = again;
        timer_changed_.notify_one();
      }
      return;
    }
    lock.unlock();
    // Assigned first: the answer may be there before execute() returns.
    for (auto& execution : batch) static_cast<CallState&>(*execution).assign(link);
    auto sent = link->execute(batch);
    if (sent) {
      seen_.batches.add();
    } else {
      not_sent(batch, instance, link.get(), sent.error());
    }
    batch.clear();
    link.reset();  // maybe the last hold: not under the lock
    lock.lock();
    spare_batches_.push_back(std::move(batch));
  }
}

void Scheduler::start_timer() {
  if (!timer_.joinable()) timer_ = std::thread([this] { run_timer(); });
}

std::optional<Scheduler::TimePoint> Scheduler::next_alarm() const {
  if (deadlines_.empty()) return timer_at_;
  const TimePoint first = deadlines_.begin()->first;
  return timer_at_ ? std::min(*timer_at_, first) : first;
}

void Scheduler::run_timer() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto next = next_alarm();
    if (!next) {
      timer_changed_.wait(lock);
      continue;
    }
    if (std::chrono::steady_clock::now() < *next) {
      timer_changed_.wait_until(lock, *next);
      continue;
    }
    if (next == timer_at_) {
      timer_at_.reset();
      dispatch(std::move(lock));
    } else {
      cancel_overdue(std::move(lock));
    }
    lock = std::unique_lock(mutex_);
  }
}

void Scheduler::cancel_overdue(std::unique_lock<std::mutex> lock) {
  std::vector<std::shared_ptr<CallState>> overdue;
  const auto end = deadlines_.upper_bound(std::chrono::steady_clock::now());
  for (auto it = deadlines_.begin(); it != end; ++it) overdue.push_back(std::move(it->second));
  deadlines_.erase(deadlines_.begin(), end);
  lock.unlock();
  for (const auto& call : overdue) {
    call->cancel(ErrorCode::DeadlineExceeded,
                 "no answer within the request's timeout; it was cancelled");
  }
}

}  // namespace tensorferry::server
