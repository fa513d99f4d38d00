#include "holdings.h"

#include <utility>

#include "ranges.h"

namespace tensorferry::stub {

void Holdings::add_input(const InputMemory& memory) {
  inputs_.emplace(reinterpret_cast<std::uintptr_t>(memory.data), &memory);
}

void Holdings::add_block(const Block& block, std::shared_ptr<DeviceUse> use) {
  device_blocks_.emplace(block.data, std::move(use));
}

void Holdings::drop_input(const InputMemory& memory) {
  inputs_.erase(reinterpret_cast<std::uintptr_t>(memory.data));
  if (auto it = named_inputs_.find(memory.lease); it != named_inputs_.end()) {
    it->second.freed = true;
  } else {
    release_input(memory.lease, memory.device.get());
  }
}

void Holdings::release_input(std::uint64_t lease, DeviceUse* use) {
  if (!use || use->streams.empty()) {
    link_.release_input(lease);
  } else {
    use->lane->endings().release_lease(lease, std::exchange(use->streams, {}));
  }
}

Arena* Holdings::arena_of(const void* address) {
  if (link_.arena().owns(address)) return &link_.arena();
  DeviceLane* lane = link_.devices().owner_of(address);
  return lane ? &lane->arena() : nullptr;
}

std::shared_ptr<DeviceUse> Holdings::use_of(const Block& block) const {
  auto it = device_blocks_.find(block.data);
  return it == device_blocks_.end() ? nullptr : it->second;
}

Holdings::Given Holdings::give(std::span<const std::byte> bytes) {
  Arena* arena = arena_of(bytes.data());
  auto block = arena ? arena->find(bytes.data()) : std::nullopt;
  if (!block) return Given::NotOurs;
  auto is_part = [&](auto range) { return overlap(range, bytes); };
  if (find_range(moved_, block->data, is_part) != moved_.end()) return Given::MovedBefore;
  given_.emplace(block->data, bytes);
  return Given::Yes;
}

void Holdings::drop_block(const Block& block) {
  if (auto it = named_blocks_.find(block.data); it != named_blocks_.end()) {
    it->second.freed = true;
  } else {
    release_block(block);
  }
}

void Holdings::release_block(const Block& block) {
  given_.erase(block.data);
  moved_.erase(block.data);
  const auto use = use_of(block);
  if (!use) {
    link_.arena().release(block.id);
    return;
  }
  device_blocks_.erase(block.data);
  if (use->streams.empty()) {
    use->lane->arena().release(block.id);
  } else {
    use->lane->endings().release_block(block.id, std::exchange(use->streams, {}));
  }
}

void Holdings::collect(std::vector<Mapping>& mappings) {
  collect_arena(link_.arena(), mappings);
  std::map<SegmentId, Mapping> by_segment;
  for (const auto& [address, input] : inputs_) {
    if (!input->mapping) continue;
    Segment& segment = *input->mapping;
    Mapping& mapping =
        by_segment
            .try_emplace(segment.id(), Mapping{segment.fd(), segment.data(), segment.bytes(), {}})
            .first->second;
    mapping.live.emplace_back(input->data, input->bytes);
  }
  for (auto& [id, mapping] : by_segment) mappings.push_back(std::move(mapping));
}

void Holdings::after_fork_child() noexcept {
  link_.arena().unlock_after_fork();
  if (disown_) disown_();
}

}  // namespace tensorferry::stub
