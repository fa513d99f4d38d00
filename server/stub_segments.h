// The segments of a stub's arena in one kind of memory, as the server provided them.
#pragma once

#include <tensorferry/transport/segment.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>

namespace tensorferry::server {

// Thread-safe; inserted and erased by the supervisor only.
class StubSegments {
 public:
  struct Use {
    std::size_t segments = 0;
    std::size_t bytes = 0;
    std::size_t peak_bytes = 0;
  };

  void insert(std::shared_ptr<Segment> segment) {
    const std::size_t bytes = segment->bytes();
    map_.insert(std::move(segment));
    std::scoped_lock lock(mutex_);
    ++use_.segments;
    use_.bytes += bytes;
    use_.peak_bytes = std::max(use_.peak_bytes, use_.bytes);
  }
  void erase(const Segment& segment) {
    map_.erase(segment.id());
    std::scoped_lock lock(mutex_);
    --use_.segments;
    use_.bytes -= segment.bytes();
  }
  std::shared_ptr<Segment> find(SegmentId id) const { return map_.find(id); }
  Result<SegmentMap::Range> resolve(SegmentId id, std::uint64_t offset, std::uint64_t bytes) const {
    return map_.resolve(id, offset, bytes);
  }
  Use use() const {
    std::scoped_lock lock(mutex_);
    return use_;
  }

 private:
  SegmentMap map_;
  mutable std::mutex mutex_;
  Use use_;
};

}  // namespace tensorferry::server
