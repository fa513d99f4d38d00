// A segment: a sealed, reserved memfd and its mapping in this process. It has no name, can neither
// shrink nor grow nor be sealed differently, and lives until the last process has let go of it.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/unique_fd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace tensorferry {

using SegmentId = std::uint32_t;

// One mapping of a segment, writable. Immutable after construction, but for pin(); use by any
// thread. Shared by all who hold ranges of it (std::shared_ptr): the last one unmaps.
class Segment {
 public:
  // Server only. Creates a memfd of `bytes` (rounded up to pages), reserves every page of it so
  // that a later write cannot be a SIGBUS, seals it and maps it. Refuses with sizes what would
  // leave less than a margin under the memory cgroups' limits (memory_limit.h). Blocks for about 1
  // us per 4 KiB page.
  static Result<std::shared_ptr<Segment>> create(SegmentId id, std::size_t bytes);

  // Maps a segment received from the peer. Checks that it is a memfd of exactly `bytes` sealed
  // against shrinking and growing, so that nobody can truncate it under us.
  static Result<std::shared_ptr<Segment>> map(SegmentId id, UniqueFd fd, std::size_t bytes);

  // Memory of another kind under the same books (a chunk of a GPU's): the CPU may not touch it, and
  // there is no descriptor (fd() is -1). It stays valid as long as `keeper` is held.
  static std::shared_ptr<Segment> adopt(SegmentId id, std::byte* data, std::size_t bytes,
                                        std::shared_ptr<void> keeper);

  // What create() makes of a size: whole pages, at least one.
  static std::size_t rounded(std::size_t bytes) noexcept;

  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  SegmentId id() const noexcept { return id_; }
  std::size_t bytes() const noexcept { return bytes_; }
  std::byte* data() const noexcept { return data_; }
  int fd() const noexcept { return fd_.get(); }
  const std::shared_ptr<void>& keeper() const noexcept { return keeper_; }  // of adopted memory
  // The memory is known to a device's driver, for as long as `registration` is held: until just
  // before it is unmapped. Once, by one thread.
  void pin(std::shared_ptr<void> registration) noexcept {
    registration_ = std::move(registration);
    pinned_.store(true, std::memory_order_release);
  }
  bool is_pinned() const noexcept { return pinned_.load(std::memory_order_acquire); }
  // True if [offset, offset + bytes) lies inside; never overflows.
  bool contains(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    return offset <= bytes_ && bytes <= bytes_ - offset;
  }

 private:
  Segment(SegmentId id, UniqueFd fd, std::byte* data, std::size_t bytes,
          std::shared_ptr<void> keeper = {}) noexcept;

  SegmentId id_;
  UniqueFd fd_;
  std::byte* data_;
  std::size_t bytes_;
  std::shared_ptr<void> keeper_;  // of adopted memory, which is not ours to unmap
  std::shared_ptr<void> registration_;
  std::atomic<bool> pinned_{false};
};

// What a process has mapped of somebody's segments, by id. Thread-safe; find() takes a shared lock.
class SegmentMap {
 public:
  SegmentMap();
  ~SegmentMap();
  void insert(std::shared_ptr<Segment> segment);
  void erase(SegmentId id);
  std::shared_ptr<Segment> find(SegmentId id) const;  // nullptr where there is none
  std::vector<std::shared_ptr<Segment>> all() const;
  // The range as memory of this process, with what keeps it mapped; an error (Protocol) when the
  // segment is unknown or the range leaves it.
  struct Range {
    std::shared_ptr<Segment> segment;
    std::span<std::byte> bytes;
  };
  Result<Range> resolve(SegmentId id, std::uint64_t offset, std::uint64_t bytes) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry
