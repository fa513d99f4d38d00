#include "address_space.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>

namespace fakecuda {
namespace {

constexpr std::uint64_t kGap = std::uint64_t{2} << 20;
constexpr std::uint64_t kSpan = std::uint64_t{1} << 40;
constexpr std::uint64_t kShift = std::uint64_t{64} << 20;
constexpr std::uint64_t kShifts = 4096;

std::uint64_t round_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

bool AddressSpace::open() {
  // Another base in each process: a pointer that was sent over the wire must not work by chance.
  const std::uint64_t shift = (std::random_device{}() % kShifts + 1) * kShift;
  for (std::uint64_t span = kSpan; span >= kSpan / 64; span /= 2) {
    const std::uint64_t size = span + (kShifts + 1) * kShift;
    void* reserved =
        ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) continue;
    ::madvise(reserved, size, MADV_DONTDUMP);
    first_ = round_up(reinterpret_cast<std::uintptr_t>(reserved) + shift, kGap);
    end_ = reinterpret_cast<std::uintptr_t>(reserved) + size;
    return true;
  }
  return false;
}

CUdeviceptr AddressSpace::take(std::uint64_t size, std::uint64_t alignment) {
  CUdeviceptr at = round_up(first_, alignment);
  for (const auto& [base, range] : taken_) {
    if (at + size + kGap <= base) break;
    at = round_up(std::max<CUdeviceptr>(at, range.end), alignment);
  }
  if (at + size + kGap > end_) return 0;
  taken_[at] = {size, at + round_up(size, 4096) + kGap};
  return at;
}

bool AddressSpace::give_back(CUdeviceptr base) { return taken_.erase(base) > 0; }

std::uint64_t AddressSpace::taken(CUdeviceptr address, CUdeviceptr& base) const {
  auto after = taken_.upper_bound(address);
  if (after == taken_.begin()) return 0;
  --after;
  if (address >= after->first + after->second.size) return 0;
  base = after->first;
  return after->second.size;
}

Mapping& AddressSpace::map(Mapping mapping) {
  mapping.buffer_id = ++buffer_ids_;
  ++counts_[static_cast<std::size_t>(mapping.kind)];
  return mappings_[mapping.base] = std::move(mapping);
}

bool AddressSpace::unmap(CUdeviceptr base) {
  const auto found = mappings_.find(base);
  if (found == mappings_.end()) return false;
  --counts_[static_cast<std::size_t>(found->second.kind)];
  mappings_.erase(found);
  return true;
}

Mapping* AddressSpace::find(CUdeviceptr address) {
  auto after = mappings_.upper_bound(address);
  if (after == mappings_.begin()) return nullptr;
  --after;
  return address < after->first + after->second.size ? &after->second : nullptr;
}

std::vector<Mapping*> AddressSpace::within(CUdeviceptr base, std::uint64_t size) {
  std::vector<Mapping*> found;
  for (auto it = mappings_.lower_bound(base); it != mappings_.end() && it->first < base + size;
       ++it)
    found.push_back(&it->second);
  return found;
}

CUresult AddressSpace::reach(const Touch& touch, int device, std::vector<Piece>& pieces) {
  if (!contains(touch.address)) {
    pieces.push_back({reinterpret_cast<char*>(touch.address), touch.size, nullptr});
    return CUDA_SUCCESS;
  }
  const std::uint32_t bit = 1U << device;
  for (std::uint64_t done = 0; done < touch.size;) {
    Mapping* mapping = find(touch.address + done);
    if (mapping == nullptr) return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (((touch.writes ? mapping->writable : mapping->readable) & bit) == 0)
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    const std::uint64_t inside = touch.address + done - mapping->base;
    const std::uint64_t size = std::min(touch.size - done, mapping->size - inside);
    pieces.push_back({mapping->physical->data + mapping->offset + inside, size, mapping->physical});
    done += size;
  }
  return CUDA_SUCCESS;
}

}  // namespace fakecuda
