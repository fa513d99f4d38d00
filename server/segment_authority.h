// Issues segment ids and creates the segments: there is one in a server, and every segment that a
// stub ever maps comes from it.
#pragma once

#include <tensorferry/transport/segment.h>

#include <atomic>

namespace tensorferry::server {

class SegmentAuthority {
 public:
  Result<std::shared_ptr<Segment>> create(std::size_t bytes) {
    return Segment::create(issue(), bytes);
  }
  // The id of a segment that is made elsewhere.
  SegmentId issue() noexcept { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::atomic<SegmentId> next_{1};
};

}  // namespace tensorferry::server
