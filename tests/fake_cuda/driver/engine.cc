#include "engine.h"

#include "checker.h"
#include "context.h"
#include "driver.h"
#include "futex.h"

#include <signal.h>

#include <algorithm>
#include <thread>

namespace fakecuda {

using std::chrono::steady_clock;

std::shared_ptr<Stream> Engine::add_stream(const std::shared_ptr<Context>& context, int device,
                                           unsigned flags, int priority, bool is_legacy) {
  auto stream = std::make_shared<Stream>();
  stream->id = ++streams_made_;
  stream->context = context;
  stream->device = device;
  stream->flags = flags;
  stream->priority = priority;
  stream->is_legacy = is_legacy;
  stream->random.seed(settings_.seed * 1000 + streams_made_);
  streams_.push_back(stream);
  return stream;
}

bool Engine::is_done(const Point& point) const {
  if (point.stream) return point.stream->completed >= point.sequence;
  if (!point.cell || point.cell->is_done(point.number)) return true;
  const ProcessId recorder{point.cell->recorder.load(), point.cell->recorder_start_time.load()};
  return settings_.death_completes && recorder.pid != 0 && !is_alive(recorder);
}

Point Engine::submit(Lock& lock, const std::shared_ptr<Stream>& stream, Operation operation) {
  const auto context = stream->context.lock();
  for (const auto& other : streams_) {
    if (other == stream || other->enqueued == other->completed || other->context.lock() != context)
      continue;
    const bool orders =
        stream->is_legacy ? other->is_blocking() : stream->is_blocking() && other->is_legacy;
    if (orders) operation.after.push_back(newest(other));
  }
  operation.sequence = ++stream->enqueued;
  const Point point = newest(stream);
  bool needs_worker = operation.on_worker;
  if (settings_.delays()) {
    const bool is_steady = settings_.scheduler == Scheduler::Steady;
    const auto delay = is_steady ? settings_.delay_us : stream->random() % (settings_.delay_us + 1);
    operation.due = steady_clock::now() + std::chrono::microseconds(delay);
    needs_worker = true;
  }
  for (const auto& dependency : operation.after)
    needs_worker |= !dependency.stream && !is_done(dependency);
  stream->operations.push_back(std::move(operation));
  if (settings_.scheduler != Scheduler::Lazy) want(stream, stream->enqueued);
  if (needs_worker) {
    start_worker();
    kick();
  }
  drain(lock, false);
  return point;
}

void Engine::want(const std::shared_ptr<Stream>& stream, std::uint64_t sequence) {
  if (stream->wanted >= sequence) return;
  const std::uint64_t before = stream->wanted;
  stream->wanted = sequence;
  for (const auto& operation : stream->operations) {
    if (operation.sequence <= before || operation.sequence > sequence) continue;
    if (operation.on_worker) kick();
    const auto after = operation.after;
    for (const auto& point : after) want(point);
  }
}

void Engine::want(const Point& point) {
  if (point.stream) {
    want(point.stream, point.sequence);
  } else if (point.cell && !point.cell->is_done(point.number)) {
    std::uint64_t forced = point.cell->forced.load();
    while (forced < point.number &&
           !point.cell->forced.compare_exchange_weak(forced, point.number)) {
    }
    start_worker();
    system_.wake_listeners();
  }
}

bool Engine::is_ready(const Stream& stream, bool is_worker) const {
  if (stream.is_running || stream.operations.empty()) return false;
  const auto& first = stream.operations.front();
  if (first.sequence > stream.wanted || (first.on_worker && !is_worker)) return false;
  return std::all_of(first.after.begin(), first.after.end(),
                     [this](const Point& point) { return is_done(point); });
}

bool Engine::may_run(const Stream& stream, bool is_worker) const {
  if (!is_ready(stream, is_worker)) return false;
  return !settings_.delays() || stream.operations.front().due <= steady_clock::now();
}

void Engine::drain(Lock& lock, bool is_worker) {
  bool progressed = true;
  while (progressed) {
    progressed = false;
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      const auto stream = streams_[i];
      while (may_run(*stream, is_worker)) {
        run_first(lock, stream);
        progressed = true;
      }
    }
    std::erase_if(streams_, [this](const auto& stream) {
      const bool is_gone = stream->is_destroyed && stream->operations.empty();
      if (is_gone) retire_timeline(system_, *stream);
      return is_gone;
    });
  }
}

void Engine::run_first(Lock& lock, const std::shared_ptr<Stream>& stream) {
  auto& first =
      stream->operations.front();  // stays where it is: what it touches is still looked for
  const std::uint64_t sequence = first.sequence;
  auto run = std::move(first.run);
  stream->is_running = true;
  const auto context = stream->context.lock();
  const bool runs = first.runs_after_error || (context && context->error == CUDA_SUCCESS);
  CUresult result = CUDA_SUCCESS;
  if (runs && run) {
    lock.unlock();
    result = run();
    run = nullptr;  // may hold the last reference to memory
    lock.lock();
  }
  if (result != CUDA_SUCCESS && context && context->error == CUDA_SUCCESS) context->error = result;
  stream->is_running = false;
  stream->operations.pop_front();
  stream->completed = std::max(stream->completed, sequence);
  changed_.notify_all();
  // The worker sleeps until what was ready then is due; something may be ready now that is due
  // before that.
  if (settings_.delays()) kick();
}

void Engine::force(Lock& lock, const Point& point) {
  want(point);
  drain(lock, false);
}

void Engine::wait(Lock& lock, const Point& point) {
  force(lock, point);
  while (!is_done(point)) {
    start_worker();
    changed_.wait(lock);
    drain(lock, false);
  }
}

bool Engine::query(Lock& lock, const Point& point, int& unanswered) {
  if (!is_done(point) && settings_.scheduler == Scheduler::Lazy &&
      ++unanswered >= settings_.polls) {
    unanswered = 0;
    force(lock, point);
  }
  const bool done = is_done(point);
  if (done) unanswered = 0;
  return done;
}

void Engine::advance(Lock& lock) {
  const auto streams = streams_;
  for (const auto& stream : streams) want(stream, stream->enqueued);
  if (has_worker_) kick();
  drain(lock, false);
}

bool Engine::is_touched(std::uint64_t address, std::uint64_t size) const {
  for (const auto& stream : streams_)
    for (const auto& operation : stream->operations)
      for (const auto& touch : operation.touches)
        if (touch.address < address + size && address < touch.address + touch.size) return true;
  return false;
}

std::uint64_t Engine::pending() const {
  std::uint64_t sum = 0;
  for (const auto& stream : streams_) sum += stream->operations.size();
  return sum;
}

void Engine::abandon(Stream& stream) {
  while (stream.operations.size() > (stream.is_running ? 1U : 0U)) stream.operations.pop_back();
  stream.completed = stream.enqueued;
  stream.wanted = stream.enqueued;
  stream.is_destroyed = true;
  changed_.notify_all();
}

void Engine::watch(const Point& record) {
  if (settings_.scheduler != Scheduler::Lazy) return;  // it runs anyway
  watched_.push_back(record);
  start_worker();
}

void Engine::look_at_requests() {
  std::erase_if(watched_, [this](const Point& point) { return is_done(point); });
  for (const auto& point : watched_)
    if (point.cell->forced.load() >= point.number) want(point);
}

void Engine::kick() {
  system_.self().wake.fetch_add(1);
  futex_wake(system_.self().wake);
}

void Engine::start_worker() {
  if (has_worker_) return;
  has_worker_ = true;
  system_.self().listening = 1;
  // Signals are for the caller's own threads.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([this] { work(); }).detach();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

std::chrono::nanoseconds Engine::until_next_due() const {
  // Also how soon a death is noticed, and a bound on what a lost wake-up may cost.
  std::chrono::nanoseconds least = std::chrono::milliseconds(settings_.death_completes ? 5 : 100);
  if (!settings_.delays()) return least;
  const auto now = steady_clock::now();
  for (const auto& stream : streams_) {
    if (!is_ready(*stream, true)) continue;
    const std::chrono::nanoseconds left = stream->operations.front().due - now;
    least = std::min(least, std::max(left, std::chrono::nanoseconds(0)));
  }
  return least;
}

void Engine::work() {
  auto& wake = system_.self().wake;
  for (;;) {
    const std::uint32_t seen = wake.load();
    std::chrono::nanoseconds limit{};
    {
      Lock lock(driver().mutex);
      look_at_requests();
      drain(lock, true);
      changed_.notify_all();
      limit = until_next_due();
    }
    futex_wait(wake, seen, limit);
  }
}

}  // namespace fakecuda
