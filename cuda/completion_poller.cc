#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/stream.h>

#include <pthread.h>
#include <sys/prctl.h>

#include <atomic>
#include <condition_variable>
#include <map>
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
  Clock::time_point since = Clock::now();
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

// With more under way each is late by less than what is gained, and a CPU would never sleep.
constexpr std::size_t kFewInFlight = 2;

Result<void> closed() { return failure(ErrorCode::Closed, "the completion poller has ended"); }

}  // namespace

struct CompletionPoller::Impl : std::enable_shared_from_this<Impl> {
  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::vector<Command> commands;
  std::thread thread;
  bool ending = false;

  std::atomic<bool> told{false};  // there are commands, or the end: seen without the mutex
  std::atomic<std::uint64_t> completed{0}, queries{0}, sleeps{0}, in_flight{0};
  // The thread's own.
  std::vector<Watch> active;
  std::map<std::uint64_t, Forecast> forecasts;  // by owner
  BriefSpin spin;
  SleepPacing pacing;

  void give(Command command) {
    std::scoped_lock lock(mutex);
    commands.push_back(std::move(command));
    told.store(true, std::memory_order_relaxed);
    if (!thread.joinable()) thread = std::thread([self = shared_from_this()] { self->run(); });
    changed.notify_one();
  }

  void end() {
    {
      std::scoped_lock lock(mutex);
      ending = true;
      told.store(true, std::memory_order_relaxed);
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

  void obey(std::vector<Command>& given) {
    for (Command& command : given) {
      if (command.watch) active.push_back(std::move(*command.watch));
      if (!command.cancel) continue;
      forecasts.erase(command.cancel->owner);
      for (std::size_t left = active.size(); left > 0; --left)
        if (active[left - 1].owner == command.cancel->owner)
          finish(take(left - 1), std::unexpected(command.cancel->why));
    }
    given.clear();
  }

  // Looks at each event once. True when one was done.
  bool sweep() {
    bool any = false;
    for (std::size_t left = active.size(); left > 0; --left) {
      const std::size_t i = left - 1;
      queries.fetch_add(1, std::memory_order_relaxed);
      auto done = query(active[i].event);
      if (done && !*done) continue;
      any = true;
      if (done) forecasts[active[i].owner].note(Clock::now() - active[i].since);
      if (done)
        finish(take(i), {});
      else
        finish(take(i), std::unexpected(std::move(done.error())));
    }
    return any;
  }

  // When to look again and again: the next such time that isn't over; nothing where none is known.
  std::optional<Forecast::Window> next_window() const {
    std::optional<Forecast::Window> next;
    if (active.size() > kFewInFlight) return next;
    for (const Watch& watch : active) {
      const auto forecast = forecasts.find(watch.owner);
      if (forecast == forecasts.end()) continue;
      const auto window = forecast->second.window(watch.since);
      if (!window || window->end <= Clock::now()) continue;
      if (!next || window->begin < next->begin) next = window;
    }
    return next;
  }

  bool look() {
    const auto window = next_window();
    const bool is_now = window && window->begin <= Clock::now();
    return spin.wait([&] { return sweep() || told.load(std::memory_order_relaxed); },
                     is_now ? window->end : Clock::time_point{});
  }

  Clock::time_point end_of_sleep() {
    const auto usual = Clock::now() + pacing.next();
    const auto window = next_window();
    return window ? std::min(usual, window->begin) : usual;
  }

  void run() {
    ::pthread_setname_np(::pthread_self(), "ferry-gpu-poll");
    // Short sleeps are meant as they are: the default adds 50 us to each.
    ::prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    const RelaxedCapture relaxed;
    std::vector<Command> given;
    std::unique_lock lock(mutex);
    while (true) {
      if (active.empty()) changed.wait(lock, [&] { return ending || !commands.empty(); });
      std::swap(given, commands);
      told.store(ending, std::memory_order_relaxed);
      const bool last = ending;
      lock.unlock();
      obey(given);
      if (last) break;
      const bool moved = active.empty() || look();
      lock.lock();
      if (moved) {
        pacing.reset();
        continue;
      }
      sleeps.fetch_add(1, std::memory_order_relaxed);
      changed.wait_until(lock, end_of_sleep(), [&] { return ending || !commands.empty(); });
    }
    while (!active.empty()) finish(take(active.size() - 1), closed());
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
  impl_->give({.watch = Watch{event, owner, std::move(done)}, .cancel = std::nullopt});
}

void CompletionPoller::cancel(std::uint64_t owner, Error why) {
  if (forked_after_cuda()) return;
  impl_->give({.watch = std::nullopt, .cancel = Cancel{owner, std::move(why)}});
}

PollerStatistics CompletionPoller::statistics() const noexcept {
  return {.completed = impl_->completed.load(std::memory_order_relaxed),
          .queries = impl_->queries.load(std::memory_order_relaxed),
          .sleeps = impl_->sleeps.load(std::memory_order_relaxed),
          .in_flight = impl_->in_flight.load(std::memory_order_relaxed)};
}

}  // namespace tensorferry::cuda
