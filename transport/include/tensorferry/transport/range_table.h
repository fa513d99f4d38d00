// The ranges of a peer's arena that are out, i.e. held by somebody here: what the peer's claims are
// checked against. Private memory; one thread at a time.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/segment.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tensorferry {

class RangeTable {
 public:
  // Notes that `lease` names the range. Error Protocol: the lease is known already, or the range
  // overlaps one that is out (an empty range overlaps nothing).
  Result<void> insert(std::uint64_t lease, SegmentId segment, std::uint64_t offset,
                      std::uint64_t bytes);
  // Forgets it; false when it is not out.
  bool erase(std::uint64_t lease);
  bool contains(std::uint64_t lease) const { return by_lease_.contains(lease); }
  std::size_t size() const noexcept { return by_lease_.size(); }
  std::size_t bytes() const noexcept { return bytes_; }
  bool empty() const noexcept { return by_lease_.empty(); }
  // Calls `visit(segment, offset, bytes)` for each range.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Range& range : sorted_) visit(range.segment, range.offset, range.bytes);
  }

 private:
  struct Range {
    SegmentId segment;
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  std::vector<Range> sorted_;  // by (segment, offset)
  std::unordered_map<std::uint64_t, Range> by_lease_;
  std::size_t bytes_ = 0;
};

}  // namespace tensorferry
