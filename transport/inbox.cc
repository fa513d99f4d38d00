#include <tensorferry/transport/inbox.h>

#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "futex.h"

namespace tensorferry {
namespace {

// How many records a thread that has what it waited for reads for others before it leaves them to
// the background thread: a stream of answers for others must not hold it.
constexpr int kMostForOthers = 32;

enum class Drained : std::uint8_t { Empty, Enough, Ended };

}  // namespace

void Completion::signal() noexcept {
  // After the exchange the waiter may be gone; the wake only names its address.
  if (state_.exchange(kDone, std::memory_order_acq_rel) == kSleeping)
    futex_wake(state_, 1, FutexScope::Private);
}

struct Inbox::Impl {
  Impl(std::byte* ring, std::size_t capacity, Handler handler_)
      : reader(ring, capacity), handler(std::move(handler_)) {}

  RingReader reader;  // used by the thread that leads
  const Handler handler;

  std::mutex mutex;  // guards what follows
  bool leading = false;
  Completion* followers = nullptr;
  bool background_serves = false;
  Error why{ErrorCode::Closed, "closed", {}};

  std::atomic<bool> stopped{false};
  std::atomic<int> following{
      0};  // how many are in `followers`; a hint where read without the mutex

  // Hands one record after another to the handler, until there is none or `enough()` says so.
  template <class Enough>
  Drained drain(Enough&& enough) {
    while (!stopped.load(std::memory_order_acquire)) {
      if (enough()) return Drained::Enough;
      auto record = reader.peek();
      if (!record) return end(record.error());
      if (!*record) return Drained::Empty;
      // The end first: whoever finds the ring drained knows what was in it (settle()).
      if (Result<void> handled = handle(**record); !handled) return end(handled.error());
      reader.consume();
    }
    return Drained::Ended;
  }

  // A handler that throws (it allocates as the peer's message says) must leave nobody waiting.
  Result<void> handle(const RingRecord& record) {
    try {
      return handler(record);
    } catch (const std::exception& thrown) {
      return failure(ErrorCode::Internal,
                     std::string("a message could not be taken in: ") + thrown.what());
    }
  }

  Drained end(Error error) {
    stop(std::move(error));
    return Drained::Ended;
  }

  bool somebody_follows() const noexcept { return following.load(std::memory_order_relaxed) != 0; }

  void stop(Error error) {
    {
      std::scoped_lock lock(mutex);
      if (!stopped.load(std::memory_order_relaxed)) {
        why = std::move(error);
        stopped.store(true, std::memory_order_release);
        for (Completion* each = followers; each; each = each->next_)
          wake_follower(*each, Completion::kLead);
      }
    }
    // Each time: a peer that lives may have spoilt the words that were changed the first time.
    reader.wake();
    reader.wake_background();
  }

  // Under the mutex: a follower that is done already needs nothing.
  static bool wake_follower(Completion& follower, std::uint32_t to) noexcept {
    std::uint32_t state = follower.state_.load(std::memory_order_acquire);
    while (state != Completion::kDone) {
      if (!follower.state_.compare_exchange_weak(state, to, std::memory_order_acq_rel)) continue;
      if (state == Completion::kSleeping) futex_wake(follower.state_, 1, FutexScope::Private);
      return true;
    }
    return false;
  }

  bool try_lead() {
    std::scoped_lock lock(mutex);
    if (leading) return false;
    leading = true;
    reader.disarm_background();
    return true;
  }

  // Gives the lead to a follower, or arms the background thread. What is there meanwhile is read
  // here; when it doesn't end, the background thread is woken to do it.
  void stop_leading() {
    int left = kMostForOthers;
    while (true) {
      {
        std::scoped_lock lock(mutex);
        if (hand_over() || stopped.load(std::memory_order_relaxed) || reader.arm_background()) {
          leading = false;
          return;
        }
        if (left <= 0 && background_serves) {
          leading = false;
          reader.wake_background();
          return;
        }
      }
      drain([&] { return --left < 0; });
    }
  }

  // Under the mutex: tells a follower to take the lead. False where none still waits.
  bool hand_over() noexcept {
    for (Completion* each = followers; each; each = each->next_) {
      if (wake_follower(*each, Completion::kLead)) return true;
    }
    return false;
  }

  void add_follower(Completion& completion) {
    completion.next_ = followers;
    followers = &completion;
    following.fetch_add(1, std::memory_order_relaxed);
  }

  void remove_follower(Completion& completion) {
    for (Completion** link = &followers; *link; link = &(*link)->next_) {
      if (*link != &completion) continue;
      *link = completion.next_;
      following.fetch_sub(1, std::memory_order_relaxed);
      return;
    }
  }

  WaitStatus lead(Completion& completion, const Deadline& deadline) {
    std::optional<WaitStatus> status;
    // The clock is looked at after a wait and among many records, so that an answer which comes at
    // once costs no look.
    bool waited = false;
    while (!status) {
      int records = 0;
      const Drained drained = drain([&] {
        return completion.done() || (++records % kMostForOthers == 0 && passed(deadline));
      });
      if (completion.done()) {
        status = WaitStatus::Done;
      } else if (drained == Drained::Ended) {
        status = WaitStatus::Failed;
      } else if ((waited || drained == Drained::Enough) && passed(deadline)) {
        status = WaitStatus::TimedOut;
      } else {
        reader.wait(deadline);
        waited = true;
      }
    }
    stop_leading();
    return completion.done() ? WaitStatus::Done : *status;
  }

  // Sleeps until the completion is done or the lead falls to it. Nothing: it leads now.
  std::optional<WaitStatus> follow(Completion& completion, const Deadline& deadline) {
    {
      std::scoped_lock lock(mutex);
      if (!leading && !stopped.load(std::memory_order_relaxed)) {
        leading = true;
        reader.disarm_background();
        return std::nullopt;
      }
      add_follower(completion);
    }
    std::optional<WaitStatus> status;
    while (true) {
      std::uint32_t state = completion.state_.load(std::memory_order_acquire);
      if (state == Completion::kDone) {
        status = WaitStatus::Done;
      } else if (stopped.load(std::memory_order_acquire)) {
        status = WaitStatus::Failed;
      } else if (passed(deadline)) {
        status = WaitStatus::TimedOut;
      }
      if (status) break;
      if (state == Completion::kLead) {
        completion.state_.compare_exchange_strong(state, Completion::kPending);
        if (try_lead()) break;
        continue;
      }
      if (state == Completion::kPending &&
          !completion.state_.compare_exchange_strong(state, Completion::kSleeping,
                                                     std::memory_order_acq_rel)) {
        continue;
      }
      futex_wait(completion.state_, Completion::kSleeping, deadline, FutexScope::Private);
    }
    bool nobody_leads = false;
    {
      std::scoped_lock lock(mutex);
      remove_follower(completion);
      // The lead may have been on its way here when this wait ended otherwise (even if no trace of
      // that is left, because a signal came on top): then it goes on to somebody else.
      nobody_leads = status && !leading;
      if (nobody_leads) {
        leading = true;
        reader.disarm_background();
      }
      std::uint32_t state = completion.state_.load();
      while (state != Completion::kDone &&
             !completion.state_.compare_exchange_weak(state, Completion::kPending)) {
      }
    }
    if (nobody_leads) stop_leading();
    if (status && completion.done()) status = WaitStatus::Done;
    return status;
  }
};

Inbox::Inbox(std::byte* ring, std::size_t capacity, Handler handler)
    : impl_(std::make_unique<Impl>(ring, capacity, std::move(handler))) {}
Inbox::~Inbox() = default;

WaitStatus Inbox::wait(Completion& completion, const Deadline& deadline) {
  if (completion.done()) return WaitStatus::Done;
  if (stopped()) return WaitStatus::Failed;
  if (!impl_->try_lead()) {
    if (auto status = impl_->follow(completion, deadline)) return *status;
  }
  return impl_->lead(completion, deadline);
}

bool Inbox::poll() {
  if (stopped() || !impl_->try_lead()) return false;
  impl_->drain([] { return false; });
  impl_->stop_leading();
  return true;
}

void Inbox::settle(const Deadline& deadline) {
  while (!poll() && !stopped() && !impl_->reader.drained() && !passed(deadline))
    std::this_thread::yield();
}

void Inbox::serve_background() {
  Impl& inbox = *impl_;
  {
    std::scoped_lock lock(inbox.mutex);
    inbox.background_serves = true;
  }
  // Whoever waits reads: the lead goes to a follower as soon as there is one.
  const auto enough = [&inbox] { return inbox.somebody_follows(); };
  AdaptiveSpin spin;
  while (!stopped()) {
    const std::uint32_t ticket = inbox.reader.background_ticket();
    if (inbox.try_lead()) {
      // A little patience, so that a stream of messages needs no wake-up for each.
      while (inbox.drain(enough) == Drained::Empty &&
             spin.wait([&] { return inbox.reader.ready() || enough() || stopped(); })) {
      }
      inbox.stop_leading();
    }
    if (stopped()) break;
    inbox.reader.background_wait(ticket);
  }
  std::scoped_lock lock(inbox.mutex);
  inbox.background_serves = false;
}

void Inbox::interrupt() noexcept { impl_->reader.wake(); }
void Inbox::stop(Error why) { impl_->stop(std::move(why)); }
bool Inbox::stopped() const noexcept { return impl_->stopped.load(std::memory_order_acquire); }
Error Inbox::error() const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->why;
}

}  // namespace tensorferry
