// An arena: blocks of shared memory, managed by one process for itself.
//
// Words. A *segment* is one mapping that the arena has; it never moves or grows. A *block* is a
// range of a segment that allocate() handed out. A block has a count of *holders*; the last one to
// let go returns it.
//
//   segment  | block | free | block        | free ...      (payload bytes only)
//
// Free lists, sizes and counts lie in private memory: the peer sees bytes and cannot spoil the
// books. Recently freed blocks are handed out first, since their pages are already there.
// Invariant: when nobody holds anything, bytes_in_use() == 0; after the peer's death its holds are
// dropped at once.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/segment.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tensorferry {

// Sizes in bytes. They change when memory is asked from the system, never whether it is correct.
struct ArenaOptions {
  std::size_t initial_bytes =
      1 << 20;  // first segment, made on first use (Triton: shm-default-byte-size)
  std::size_t growth_bytes = 1 << 20;  // smallest further segment (shm-growth-byte-size)
  std::size_t max_bytes = std::size_t{1}
                          << 30;           // of all segments together; reaching it is an error
  std::size_t keep_idle_bytes = 64 << 20;  // what trim() leaves of segments that are wholly idle
};

// Names a block; 0 is none. Never reused while the arena lives, so a stale one is noticed.
using BlockId = std::uint64_t;

struct Block {
  BlockId id = 0;
  SegmentId segment = 0;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;  // as asked; what was reserved may be more
  std::byte* data = nullptr;
};

struct ArenaStatistics {
  std::size_t bytes_in_use = 0;  // blocks handed out, as reserved
  std::size_t blocks_in_use = 0;
  std::size_t segment_bytes = 0;
  std::size_t segments = 0;
  std::size_t peak_bytes = 0;  // of bytes_in_use
  std::size_t peak_segment_bytes = 0;
};

// Thread-safe: one private mutex, never held while more memory is asked for or anything blocks.
class Arena {
 public:
  // Provides one more segment of at least `bytes`: the server creates it, a stub asks the server
  // for it.
  using SegmentSource = std::function<Result<std::shared_ptr<Segment>>(std::size_t bytes)>;
  // Told when an idle segment was dropped by trim(), outside the arena's lock.
  using SegmentSink = std::function<void(SegmentId)>;

  Arena(ArenaOptions options, SegmentSource source, SegmentSink dropped = {});
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // A block of `bytes` with one holder: 64-byte aligned, page-aligned from a page up. Makes a
  // system call only when it has to grow. Error OutOfSharedMemory says what was asked, used and
  // allowed, and how to raise the limit. Zero bytes give a valid block.
  Result<Block> allocate(std::size_t bytes);
  // The same but never grows and never blocks beyond the mutex; nullopt where nothing is free.
  std::optional<Block> try_allocate(std::size_t bytes);

  // One holder more or less. False for an id that names no live block (nothing happens then).
  bool add_holder(BlockId id, std::uint32_t count = 1);
  bool release(BlockId id);
  // The live block that contains the address, if there is one.
  std::optional<Block> find(const void* address) const;
  // True if the address lies in any of the arena's segments. Lock-free: a NumPy free() asks it each
  // time.
  bool owns(const void* address) const noexcept;
  std::optional<Block> lookup(BlockId id) const;
  std::vector<Block> live_blocks() const;  // for fork and for statistics

  // Gives wholly idle segments beyond keep_idle_bytes back to the system. Returns the bytes given
  // back.
  std::size_t trim();
  std::size_t trim(std::size_t keep_idle_bytes);

  std::size_t bytes_in_use() const noexcept;
  ArenaStatistics statistics() const;
  const ArenaOptions& options() const noexcept;
  std::vector<std::shared_ptr<Segment>> segments() const;

  // Around fork() in a process that has other threads: nobody may hold the lock meanwhile. In
  // between, live_ranges_locked() tells for each segment what of it is in use.
  void lock_for_fork() noexcept;
  std::vector<std::pair<std::shared_ptr<Segment>, std::vector<std::span<std::byte>>>>
  live_ranges_locked() const;
  void unlock_after_fork() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry
