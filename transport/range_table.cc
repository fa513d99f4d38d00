#include <tensorferry/transport/range_table.h>

#include <algorithm>
#include <string>

namespace tensorferry {
namespace {

constexpr auto kInOrder = [](const auto& a, const auto& b) {
  return a.segment != b.segment ? a.segment < b.segment : a.offset < b.offset;
};

}  // namespace

Result<void> RangeTable::insert(std::uint64_t lease, SegmentId segment, std::uint64_t offset,
                                std::uint64_t bytes) {
  if (by_lease_.contains(lease)) {
    return failure(ErrorCode::Protocol, "lease " + std::to_string(lease) + " is out already");
  }
  Range range{segment, offset, bytes};
  if (bytes > 0) {
    auto next = std::ranges::lower_bound(sorted_, range, kInOrder);
    bool hits_next =
        next != sorted_.end() && next->segment == segment && next->offset - offset < bytes;
    bool hits_previous = false;
    if (next != sorted_.begin()) {
      const Range& previous = *std::prev(next);
      hits_previous = previous.segment == segment && offset - previous.offset < previous.bytes;
    }
    if (hits_next || hits_previous) {
      return failure(ErrorCode::Protocol, "bytes " + std::to_string(offset) + " and " +
                                              std::to_string(bytes) + " more of segment " +
                                              std::to_string(segment) +
                                              " overlap a range that is out");
    }
    sorted_.insert(next, range);
  }
  by_lease_.emplace(lease, range);
  bytes_ += bytes;
  return {};
}

bool RangeTable::erase(std::uint64_t lease) {
  auto it = by_lease_.find(lease);
  if (it == by_lease_.end()) return false;
  Range range = it->second;
  if (range.bytes > 0) {
    sorted_.erase(std::ranges::lower_bound(sorted_, range, kInOrder));
  }
  bytes_ -= range.bytes;
  by_lease_.erase(it);
  return true;
}

}  // namespace tensorferry
