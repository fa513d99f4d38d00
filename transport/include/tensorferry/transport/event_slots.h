// Who may use the events of a ring just now: one side records them, the other one alone looks
// whether they are complete, and says so. Knows nothing of CUDA.
#pragma once

#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/protocol.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace tensorferry {

// The side that records: a slot is free again when the peer has seen it complete. What must live
// until then is kept with the slot. Thread-safe.
class EventSlots {
 public:
  struct Taken {
    std::uint32_t slot = 0;
    std::uint64_t generation = 0;  // tells one use of a slot from the next; only grows
  };
  using Kept = std::vector<std::shared_ptr<void>>;

  explicit EventSlots(std::size_t count);

  std::optional<Taken> take();
  // The same, waiting for one; calls `meanwhile` now and then, without a lock.
  std::optional<Taken> take(const Deadline& deadline, const std::function<void()>& meanwhile);
  // A slot that the peer was never told of.
  void give_back(Taken taken);
  // `kept` stays until the slot is seen complete. Before the peer is told of it.
  void keep(Taken taken, Kept kept);
  // The peer saw it complete. What was kept with it, for the caller to drop outside of all locks;
  // nothing for a use that is not under way.
  std::optional<Kept> seen(std::uint32_t slot, std::uint64_t generation);
  std::size_t count() const noexcept { return slots_.size(); }

 private:
  struct Slot {
    std::uint64_t generation = 0;
    bool out = false;
    Kept kept;
  };
  std::optional<Taken> take_locked();
  void free_locked(std::uint32_t slot);

  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<Slot> slots_;
  std::deque<std::uint32_t> free_;  // the one that was free longest is taken first
};

// The side that looks: what the peer says that it has recorded. Thread-safe.
class RecordedSlots {
 public:
  explicit RecordedSlots(std::size_t count) : slots_(count) {}
  // Error Protocol where the peer can't have recorded it.
  Result<void> take(const protocol::EventSlot& recorded);
  // It was seen complete: the peer is told and may record it again.
  void give_back(const protocol::EventSlot& recorded);

 private:
  struct Slot {
    bool out = false;
    std::uint64_t generation = 0;  // the last one that the peer named
  };
  std::mutex mutex_;
  std::vector<Slot> slots_;
};

}  // namespace tensorferry
