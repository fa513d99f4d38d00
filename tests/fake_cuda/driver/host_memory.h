// Host memory that the driver knows: allocated by it or registered with it. Guarded by the driver's
// lock.
#pragma once

#include "cuda_api.h"
#include "shadow.h"

#include <cstdint>
#include <map>
#include <memory>

namespace fakecuda {

// Zeroed, and taking memory only where it is used.
std::shared_ptr<ShadowEntry> make_shadow(std::uint64_t size);

struct HostRange {
  std::uint64_t base = 0;
  std::uint64_t size = 0;
  unsigned flags = 0;
  bool is_registered = false;   // else allocated
  CUcontext context = nullptr;  // that it dies with; null: none
  CUmemoryPool pool = nullptr;
  std::uint64_t buffer_id = 0;
  std::shared_ptr<ShadowEntry> shadow;  // of the checker; null: there was no memory for it
};

class HostMemory {
 public:
  // false: it overlaps one that is known.
  bool add(const HostRange& range) {
    if (overlaps(range.base, range.size)) return false;
    ranges_[range.base] = range;
    registered_ += range.is_registered ? 1 : 0;
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
  void remove(std::uint64_t base) {
    const auto found = ranges_.find(base);
    if (found == ranges_.end()) return;
    registered_ -= found->second.is_registered ? 1 : 0;
    ranges_.erase(found);
  }
  std::uint64_t registered() const { return registered_; }
  const std::map<std::uint64_t, HostRange>& ranges() const { return ranges_; }

 private:
  bool overlaps(std::uint64_t base, std::uint64_t size) const {
    auto next = ranges_.lower_bound(base);
    return (next != ranges_.end() && next->first < base + size) || find(base) != nullptr;
  }

  std::map<std::uint64_t, HostRange> ranges_;
  std::uint64_t registered_ = 0;
};

}  // namespace fakecuda
