// Whoever waits reads: the threads of one process that wait for messages of one ring, without a
// thread in between. One of them leads: it reads the ring and hands each record to the handler,
// which completes whatever the record is about. The others sleep on their own Completion until it
// is signalled, or until the lead falls to them. When nobody waits, a background thread is armed
// and only urgent records wake it.
#pragma once

#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/ring.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace tensorferry {

// Something that one thread waits for and another signals once (reset() makes it new). The waiter
// may destroy it as soon as its wait has seen it done.
class Completion {
 public:
  void signal() noexcept;
  bool done() const noexcept { return state_.load(std::memory_order_acquire) == kDone; }
  void reset() noexcept { state_.store(kPending, std::memory_order_relaxed); }

 private:
  friend class Inbox;
  static constexpr std::uint32_t kPending = 0, kDone = 1, kLead = 2, kSleeping = 3;
  std::atomic<std::uint32_t> state_{kPending};  // futex word, private to the process
  Completion* next_ = nullptr;                  // followers' list, under Inbox's mutex
};

enum class WaitStatus : std::uint8_t { Done, TimedOut, Failed };

class Inbox {
 public:
  // Called by the thread that leads, one record at a time, in order. It must not wait on this
  // inbox. An error, or an exception, ends the inbox: all waiters return Failed and error() says
  // why.
  using Handler = std::function<Result<void>(const RingRecord&)>;

  // `ring`: as RingReader takes it.
  Inbox(std::byte* ring, std::size_t capacity, Handler handler);
  ~Inbox();  // no thread may be inside
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  // Waits until `completion` is done, leading if nobody else does. From any thread.
  WaitStatus wait(Completion& completion, const Deadline& deadline);
  // After a Completion was signalled by anybody but the handler: the thread that leads looks at its
  // own again. From any thread.
  void interrupt() noexcept;
  // Reads what is there without waiting, if nobody leads. Returns false if somebody else leads.
  bool poll();
  // Returns when all that was committed before has been handled, here or by the thread that leads,
  // or when the deadline has passed. A peer that lives may see to it that it passes.
  void settle(const Deadline& deadline);

  // The body of the background thread: serves until stop(). One thread.
  void serve_background();
  // Ends serve_background() and fails all waits with `why`, now and later. From any thread;
  // idempotent (the first reason stays).
  void stop(Error why);
  bool stopped() const noexcept;
  Error error() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry
