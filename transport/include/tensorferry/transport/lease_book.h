// What of an arena, or of several, is lent to one peer: lease → range of a block, with the block
// held once per lease.
#pragma once

#include <tensorferry/transport/arena.h>

#include <cstdint>
#include <optional>
#include <unordered_map>

namespace tensorferry {

// One thread at a time.
class LeaseBook {
 public:
  struct Range {
    BlockId block = 0;
    SegmentId segment = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::byte* data = nullptr;
    Arena* arena = nullptr;  // none: the book's own
    bool contains(SegmentId in, std::uint64_t at, std::uint64_t size) const noexcept {
      return in == segment && at >= offset && size <= bytes && at - offset <= bytes - size;
    }
  };

  explicit LeaseBook(Arena& arena) : arena_(arena) {}
  ~LeaseBook() { clear(); }
  LeaseBook(const LeaseBook&) = delete;
  LeaseBook& operator=(const LeaseBook&) = delete;

  // Lends the range: holds the block once more. Returns the lease.
  std::uint64_t lend(const Range& range) {
    expects(of(range).add_holder(range.block), "what is lent is a live block");
    leases_.emplace(++last_, range);
    return last_;
  }
  // Takes over a hold that the caller has.
  std::uint64_t lend_held(const Range& range) {
    leases_.emplace(++last_, range);
    return last_;
  }
  std::optional<Range> find(std::uint64_t lease) const {
    auto it = leases_.find(lease);
    return it == leases_.end() ? std::nullopt : std::optional(it->second);
  }
  // Given back; false when it isn't lent.
  bool release(std::uint64_t lease) {
    auto it = leases_.find(lease);
    if (it == leases_.end()) return false;
    of(it->second).release(it->second.block);
    leases_.erase(it);
    return true;
  }
  // The hold is the caller's again: of a lease that the peer was never told of, or that ends later
  // than it is given back. None where it isn't lent.
  std::optional<Range> take(std::uint64_t lease) {
    auto node = leases_.extract(lease);
    return node ? std::optional(node.mapped()) : std::nullopt;
  }
  // The same; false where it isn't lent.
  bool take_back(std::uint64_t lease) { return take(lease).has_value(); }
  // The peer is dead: everything is given back.
  void clear() {
    for (const auto& [lease, range] : leases_) of(range).release(range.block);
    leases_.clear();
  }
  std::size_t size() const noexcept { return leases_.size(); }

 private:
  Arena& of(const Range& range) const noexcept { return range.arena ? *range.arena : arena_; }

  Arena& arena_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, Range> leases_;
};

}  // namespace tensorferry
