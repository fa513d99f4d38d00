// Host memory that the driver knows: allocated by it or registered with it. Guarded by the driver's
// lock.
#pragma once

#include "cuda_api.h"

#include <cstdint>
#include <map>

namespace fakecuda {

struct HostRange {
  std::uint64_t base = 0;
  std::uint64_t size = 0;
  unsigned flags = 0;
  bool is_registered = false;  // else allocated
  CUcontext context = nullptr;
  std::uint64_t buffer_id = 0;
};

class HostMemory {
 public:
  // false: it overlaps one that is known.
  bool add(const HostRange& range) {
    if (overlaps(range.base, range.size)) return false;
    ranges_[range.base] = range;
    return true;
  }
  const HostRange* find(std::uint64_t address) const {
    auto after = ranges_.upper_bound(address);
    if (after == ranges_.begin()) return nullptr;
    --after;
    return address < after->first + after->second.size ? &after->second : nullptr;
  }
  // The whole range is known to the driver (by several neighbours, maybe).
  bool is_pinned(std::uint64_t address, std::uint64_t size) const {
    for (std::uint64_t at = address; at < address + size;) {
      const HostRange* range = find(at);
      if (range == nullptr) return false;
      at = range->base + range->size;
    }
    return find(address) != nullptr;
  }
  void remove(std::uint64_t base) { ranges_.erase(base); }
  const std::map<std::uint64_t, HostRange>& ranges() const { return ranges_; }

 private:
  bool overlaps(std::uint64_t base, std::uint64_t size) const {
    auto next = ranges_.lower_bound(base);
    return (next != ranges_.end() && next->first < base + size) || find(base) != nullptr;
  }

  std::map<std::uint64_t, HostRange> ranges_;
};

}  // namespace fakecuda
