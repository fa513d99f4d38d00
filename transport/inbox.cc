#include <tensorferry/transport/inbox.h>

#include <mutex>

#include "futex.h"

namespace tensorferry {

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
  Error why{ErrorCode::Closed, "closed", {}};

  std::atomic<bool> stopped{false};

  // Hands one record after another to the handler. False when the inbox has ended.
  bool drain() {
    while (!stopped.load(std::memory_order_acquire)) {
      auto record = reader.peek();
      if (!record) return end(record.error());
      if (!*record) return true;
      Result<void> handled = handler(**record);
      reader.consume();
      if (!handled) return end(handled.error());
    }
    return false;
  }

  bool end(Error error) {
    stop(std::move(error));
    return false;
  }

  void stop(Error error) {
    {
      std::scoped_lock lock(mutex);
      if (stopped.load(std::memory_order_relaxed)) return;
      why = std::move(error);
      stopped.store(true, std::memory_order_release);
      for (Completion* each = followers; each; each = each->next_)
        wake_follower(*each, Completion::kLead);
    }
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

  // Gives the lead to a follower, or arms the background thread.
  void stop_leading() {
    while (true) {
      {
        std::scoped_lock lock(mutex);
        for (Completion* each = followers; each; each = each->next_) {
          if (wake_follower(*each, Completion::kLead)) {
            leading = false;
            return;
          }
        }
        if (stopped.load(std::memory_order_relaxed) || reader.arm_background()) {
          leading = false;
          return;
        }
      }
      if (!drain()) {
        std::scoped_lock lock(mutex);
        leading = false;
        return;
      }
    }
  }

  void add_follower(Completion& completion) {
    completion.next_ = followers;
    followers = &completion;
  }

  void remove_follower(Completion& completion) {
    for (Completion** link = &followers; *link; link = &(*link)->next_) {
      if (*link != &completion) continue;
      *link = completion.next_;
      return;
    }
  }

  WaitStatus lead(Completion& completion, const Deadline& deadline) {
    WaitStatus status = WaitStatus::Done;
    while (true) {
      bool alive = drain();
      if (completion.done()) break;
      if (!alive) {
        status = WaitStatus::Failed;
        break;
      }
      if (passed(deadline)) {
        status = WaitStatus::TimedOut;
        break;
      }
      reader.wait(deadline);
    }
    stop_leading();
    return status;
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
    bool passes_lead_on = false;
    {
      std::scoped_lock lock(mutex);
      remove_follower(completion);
      // It may have been chosen to lead while it gave up: then somebody else must.
      passes_lead_on = status && completion.state_.load() == Completion::kLead && !leading;
      if (passes_lead_on) {
        leading = true;
        reader.disarm_background();
      }
      std::uint32_t state = completion.state_.load();
      while (state != Completion::kDone &&
             !completion.state_.compare_exchange_weak(state, Completion::kPending)) {
      }
    }
    if (passes_lead_on) stop_leading();
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
  impl_->drain();
  impl_->stop_leading();
  return true;
}

void Inbox::serve_background() {
  AdaptiveSpin spin;
  while (!stopped()) {
    std::uint32_t ticket = impl_->reader.background_ticket();
    if (impl_->try_lead()) {
      // A little patience, so that a stream of messages needs no wake-up for each.
      while (impl_->drain() && spin.wait([this] { return impl_->reader.ready() || stopped(); })) {
      }
      impl_->stop_leading();
    }
    if (stopped()) return;
    impl_->reader.background_wait(ticket);
  }
}

void Inbox::interrupt() noexcept { impl_->reader.wake(); }
void Inbox::stop(Error why) { impl_->stop(std::move(why)); }
bool Inbox::stopped() const noexcept { return impl_->stopped.load(std::memory_order_acquire); }
Error Inbox::error() const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->why;
}

}  // namespace tensorferry
