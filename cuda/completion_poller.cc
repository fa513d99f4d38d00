#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/deadline.h>

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "driver_call.h"
#include "poll_pacing.h"

namespace tensorferry::cuda {
namespace {

struct Watch {
  EventHandle event;
  std::uint64_t owner;
  CompletionPoller::Done done;
  Clock::time_point begin;
  Clock::time_point next;               // when it is looked at
  std::optional<PollTime> not_done_at;  // since begin: by the last look
};
struct Cancel {
  std::uint64_t owner;
  Error why;
};
// Carried out in the order in which they were given.
struct Command {
  std::optional<Watch> watch;
  std::optional<Cancel> cancel;
};

// With more under way the thread is awake often anyhow, and what it spins for one is late for
// others.
constexpr std::size_t kFewInFlight = 2;
// By owner, some of which share one.
constexpr std::size_t kUsualTimes = 64;

Result<void> closed() { return failure(ErrorCode::Closed, "the completion poller has ended"); }

}  // namespace

struct CompletionPoller::Impl : std::enable_shared_from_this<Impl> {
  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::vector<Command> commands;
  Clock::time_point wakes_at = Clock::time_point::min();  // when the thread is there by itself
  std::thread thread;
  bool ending = false;

  std::atomic<std::uint64_t> completed{0}, queries{0}, sleeps{0}, in_flight{0};
  std::array<UsualTime, kUsualTimes> usual_times;
  // The thread's own.
  std::vector<Watch> active;
  Oversleep oversleep;

  UsualTime& usual_time(std::uint64_t owner) { return usual_times[owner % kUsualTimes]; }

  // It has to be there by then.
  void give(Command command, Clock::time_point by) {
    std::scoped_lock lock(mutex);
    commands.push_back(std::move(command));
    if (!thread.joinable()) thread = std::thread([self = shared_from_this()] { self->run(); });
    if (by >= wakes_at) return;
    wakes_at = Clock::time_point::min();  // once is enough
    changed.notify_one();
  }

  void end() {
    {
      std::scoped_lock lock(mutex);
      ending = true;
      changed.notify_one();
    }
    if (!thread.joinable()) return;
    // A callback that lets go of the last one who held the poller is on its thread: that ends by
    // itself then.
    if (thread.get_id() == std::this_thread::get_id())
      thread.detach();
    else
      thread.join();
  }

  void finish(Watch watch, Result<void> how) {
    completed.fetch_add(1, std::memory_order_relaxed);
    in_flight.fetch_sub(1, std::memory_order_relaxed);
    watch.done(std::move(how));
  }

  // Takes one out; the last one comes to its place.
  Watch take(std::size_t at) {
    Watch watch = std::exchange(active[at], std::move(active.back()));
    active.pop_back();
    return watch;
  }

  // Until there are commands, it is time to look, or the end.
  void await(std::unique_lock<std::mutex>& lock, Clock::time_point next) {
    const auto told = [&] { return ending || !commands.empty(); };
    if (told()) return;
    if (active.empty()) {
      wakes_at = Clock::time_point::max();
      changed.wait(lock, told);
    } else if (const auto now = Clock::now(), alarm = oversleep.alarm(now, next); now < alarm) {
      wakes_at = next;
      sleeps.fetch_add(1, std::memory_order_relaxed);
      if (!changed.wait_until(lock, alarm, told)) oversleep.learn(Clock::now() - alarm);
    }
    wakes_at = Clock::time_point::min();
  }

  void obey(std::vector<Command>& given) {
    for (Command& command : given) {
      if (command.watch) active.push_back(std::move(*command.watch));
      if (!command.cancel) continue;
      for (std::size_t left = active.size(); left > 0; --left)
        if (active[left - 1].owner == command.cancel->owner)
          finish(take(left - 1), std::unexpected(command.cancel->why));
    }
    given.clear();
  }

  // Looks at one that it is time for. True when it was done.
  bool look(std::size_t at, Clock::time_point now) {
    Watch& watch = active[at];
    queries.fetch_add(1, std::memory_order_relaxed);
    auto done = query(watch.event);
    UsualTime& usual = usual_time(watch.owner);
    if (done && !*done) {
      watch.not_done_at = now - watch.begin;
      const PollTime spin = active.size() <= kFewInFlight ? usual.spin() : kSpin;
      watch.next = now + nap(*watch.not_done_at, usual.expected(), spin);
      return false;
    }
    if (done) usual.learn(watch.not_done_at);
    finish(take(at), done ? Result<void>() : std::unexpected(std::move(done.error())));
    return true;
  }

  // Returns when it is time for the next look.
  Clock::time_point sweep() {
    auto next = Clock::time_point::max();
    for (std::size_t left = active.size(); left > 0; --left) {
      const auto now = Clock::now();
      if (active[left - 1].next <= now && look(left - 1, now)) continue;
      next = std::min(next, active[left - 1].next);
    }
    return next;
  }

  void run() {
    ::pthread_setname_np(::pthread_self(), "ferry-gpu-poll");
    // Short sleeps are meant as they are: the default adds 50 us to each.
    ::prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    const RelaxedCapture relaxed;
    std::vector<Command> given;
    auto next = Clock::time_point::max();
    while (true) {
      {
        std::unique_lock lock(mutex);
        await(lock, next);
        std::swap(given, commands);
        if (ending && given.empty()) break;
      }
      obey(given);
      next = sweep();
      if (!active.empty()) ::sched_yield();
    }
    close(given);
  }

  // Callbacks may still give something.
  void close(std::vector<Command>& given) {
    do {
      obey(given);
      while (!active.empty()) finish(take(active.size() - 1), closed());
      std::scoped_lock lock(mutex);
      std::swap(given, commands);
    } while (!given.empty());
  }
};

CompletionPoller::CompletionPoller() : impl_(std::make_shared<Impl>()) {}

CompletionPoller::~CompletionPoller() {
  // In a forked child there is no such thread, and it may have held the mutex at the fork: nothing
  // of it can be touched.
  if (forked_after_cuda())
    new std::shared_ptr<Impl>(std::move(impl_));
  else
    impl_->end();
}

void CompletionPoller::watch(EventHandle event, std::uint64_t owner, Done done) {
  if (forked_after_cuda()) return done(driver_failure("cuEventQuery", abi::kNotInitialized));
  impl_->in_flight.fetch_add(1, std::memory_order_relaxed);
  const auto now = Clock::now();
  const auto next = now + impl_->usual_time(owner).expected();
  impl_->give(
      {.watch = Watch{event, owner, std::move(done), now, next, {}}, .cancel = std::nullopt}, next);
}

void CompletionPoller::cancel(std::uint64_t owner, Error why) {
  if (forked_after_cuda()) return;
  impl_->give({.watch = std::nullopt, .cancel = Cancel{owner, std::move(why)}},
              Clock::time_point::min());
}

PollerStatistics CompletionPoller::statistics() const noexcept {
  return {.completed = impl_->completed.load(std::memory_order_relaxed),
          .queries = impl_->queries.load(std::memory_order_relaxed),
          .sleeps = impl_->sleeps.load(std::memory_order_relaxed),
          .in_flight = impl_->in_flight.load(std::memory_order_relaxed)};
}

}  // namespace tensorferry::cuda
