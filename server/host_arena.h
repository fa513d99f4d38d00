// An arena of one model in the server: what callers fill and give, mapped by every stub of that
// model and by no other. One in shared memory, and one on each GPU that is used (gpu_arenas.h).
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/server/void_after_fork.h>
#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/fork_guard.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "idle_watch.h"
#include "segment_authority.h"

namespace tensorferry::server {

// Thread-safe. Lives until the last of its buffers is gone.
class HostArena : public std::enable_shared_from_this<HostArena>, private ForkParticipant {
 public:
  // Told of every segment, before anything in it is handed out. Must not call back.
  class Subscriber {
   public:
    virtual ~Subscriber() = default;
    virtual void on_segment(const HostArena& arena, const Segment& segment) = 0;
    virtual void on_segment_dropped(SegmentId id) = 0;
  };
  using SegmentMaker = Arena::SegmentSource;

  HostArena(const std::shared_ptr<SegmentAuthority>& authority, ArenaOptions options,
            std::shared_ptr<IdleWatch> watch = std::make_shared<IdleWatch>());
  // Of memory that `make` provides, on that device.
  HostArena(SegmentMaker make, Device device, ArenaOptions options,
            std::shared_ptr<IdleWatch> watch);

  const Device& device() const noexcept { return device_; }

  // A block with one holder, which the Buffer is.
  Result<Buffer> allocate(std::size_t bytes);
  // A further holder of a range of a live block.
  Buffer hold(BlockId block, std::byte* data, std::size_t bytes);

  // Subscribes and is told of the segments that exist. Unsubscribe before the subscriber dies.
  void subscribe(Subscriber& subscriber);
  void unsubscribe(Subscriber& subscriber);

  Arena& arena() noexcept { return arena_; }
  // nullptr for one that is none of its own (any more).
  std::shared_ptr<Segment> find_segment(SegmentId id) const;
  // Whether the buffer lies in pinned memory of this arena.
  bool is_pinned(const Buffer& buffer) const;
  // What of its segments is pinned.
  std::size_t pinned_bytes() const;

  // The model is in use: memory was taken or let go of, here or in a stub, or a batch was sent.
  void use() noexcept {
    uses_.fetch_add(1, std::memory_order_seq_cst);
    watch_->work();
  }
  std::uint64_t uses() const noexcept { return uses_.load(std::memory_order_seq_cst); }

 private:
  Result<std::shared_ptr<Segment>> grow(std::size_t bytes);
  void before_fork() noexcept override { arena_.lock_for_fork(); }
  // A GPU's memory can't be had twice, and is refused in a child.
  void collect(std::vector<Mapping>& mappings) override {
    if (device_.kind == DeviceKind::Cpu) collect_arena(arena_, mappings);
  }
  void after_fork_parent() noexcept override { arena_.unlock_after_fork(); }
  void after_fork_child() noexcept override { arena_.unlock_after_fork(); }

  const SegmentMaker make_;
  const Device device_;
  const std::shared_ptr<IdleWatch> watch_;
  std::atomic<std::uint64_t> uses_{0};
  mutable std::mutex mutex_;  // guards subscribers_ and announced_
  std::vector<Subscriber*> subscribers_;
  std::vector<std::shared_ptr<Segment>> announced_;
  Arena arena_;
  std::shared_ptr<void> fork_registration_;  // last: let go of first
};

// One hold on a block of a host arena.
class HostBlock final : public BufferHolder {
 public:
  HostBlock(std::shared_ptr<HostArena> arena, BlockId block)
      : arena_(std::move(arena)), block_(block) {}
  // In a forked child the memory is a private copy, and the books are the parent's.
  ~HostBlock() override {
    if (!home_.is_here()) return;
    arena_->arena().release(block_);
    arena_->use();
  }
  HostBlock(const HostBlock&) = delete;
  HostBlock& operator=(const HostBlock&) = delete;

  // The holder of `buffer` if it is a block of `arena`, else nullptr.
  static const HostBlock* of(const Buffer& buffer, const HostArena& arena) noexcept;
  BlockId block() const noexcept { return block_; }

 private:
  std::shared_ptr<HostArena> arena_;
  BlockId block_;
  Home home_;
};

}  // namespace tensorferry::server
