// Which events of the ring that this stub records are free. The server alone looks whether one is
// complete; it tells so, and then the slot is free again. What must live until then is kept with
// the slot. Knows nothing of CUDA. Thread-safe.
#pragma once

#include <tensorferry/transport/deadline.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace tensorferry::stub {

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
  // A slot that the server was never told of.
  void give_back(Taken taken);
  // `kept` stays until the slot is seen complete. Before the server is told of it.
  void keep(Taken taken, Kept kept);
  // The server saw it complete. What was kept with it, for the caller to drop outside of all locks;
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

}  // namespace tensorferry::stub
