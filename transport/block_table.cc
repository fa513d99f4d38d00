#include "block_table.h"

#include <algorithm>

namespace tensorferry {

void BlockTable::add_segment(const Segment& segment) {
  Pages pages{segment.id(), segment.data(), segment.bytes(), {}};
  pages.first.resize((segment.bytes() + kPage - 1) / kPage, kNone);
  auto place = std::ranges::upper_bound(segments_, pages.data, {}, &Pages::data);
  segments_.insert(place, std::move(pages));
}

void BlockTable::remove_segment(SegmentId id) {
  std::erase_if(segments_, [&](const Pages& pages) { return pages.id == id; });
}

std::optional<BlockTable::Index> BlockTable::take_hot(const SizeClass& of) {
  auto& list = hot_[of.index];
  if (list.empty()) return std::nullopt;
  Index index = list.back();
  list.pop_back();
  return index;
}

std::optional<BlockTable::Index> BlockTable::cut(const PageRuns::Run& run, const SizeClass& of) {
  const std::size_t count = of.bytes < kPage ? kPage / of.bytes : 1;
  const Index first = new_slots(count);
  if (first == kNone) return std::nullopt;
  Pages& pages = pages_of(run.segment);
  for (std::size_t i = 0; i < count; ++i) {
    Slot& slot = slots_[first + i];
    slot.segment = run.segment;
    slot.offset = run.offset + i * of.bytes;
    slot.data = pages.data + slot.offset;
    slot.reserved = of.bytes;
    slot.holders = 0;
    slot.size_class = static_cast<std::uint16_t>(of.index);
    slot.page_used = 0;
  }
  std::fill_n(pages.first.begin() + static_cast<std::ptrdiff_t>(run.offset / kPage),
              run.bytes / kPage, first);
  auto& list = hot_[of.index];
  // Room for all that exist, so that giving back never allocates.
  existing_[of.index] += count;
  if (list.capacity() < existing_[of.index])
    list.reserve(std::max(existing_[of.index], 2 * list.capacity()));
  for (std::size_t i = count; i-- > 1;) list.push_back(static_cast<Index>(first + i));
  return first;
}

Block BlockTable::hand_out(Index index, std::size_t asked) {
  Slot& slot = slots_[index];
  slot.asked = asked;
  slot.holders = 1;
  if (slot.reserved < kPage) ++slots_[page_slot(index)].page_used;
  return describe(index);
}

void BlockTable::give_back(Index index) {
  Slot& slot = slots_[index];
  // Wraps after 2^40 uses of one slot: no id is kept that long.
  slot.generation = std::max<std::uint64_t>((slot.generation + 1) & kGenerationMask, 1);
  slot.holders = 0;
  if (slot.reserved < kPage) --slots_[page_slot(index)].page_used;
  hot_[slot.size_class].push_back(index);
}

void BlockTable::flush(PageRuns& runs) {
  for (auto& list : hot_) {
    // Small blocks' pages go when their first slot comes by, and take its neighbours along.
    std::erase_if(list, [&](Index index) {
      const Slot& slot = slots_[index];
      return slot.reserved < kPage && slots_[page_slot(index)].page_used == 0 &&
             page_slot(index) != index;
    });
    std::erase_if(list, [&](Index index) {
      const Slot& slot = slots_[index];
      const bool small = slot.reserved < kPage;
      if (small && slot.page_used > 0) return false;
      if (small && page_slot(index) != index) return false;
      const std::size_t bytes = small ? kPage : slot.reserved;
      runs.give({slot.segment, slot.offset, bytes});
      auto& first = pages_of(slot.segment).first;
      std::fill_n(first.begin() + static_cast<std::ptrdiff_t>(slot.offset / kPage), bytes / kPage,
                  kNone);
      const std::size_t count = small ? kPage / slot.reserved : 1;
      existing_[slot.size_class] -= count;
      spare_[count].push_back(index);
      return true;
    });
  }
}

std::optional<BlockTable::Index> BlockTable::index_of(BlockId id) const {
  const auto index = static_cast<Index>(id & kSlotMask);
  if (index >= slots_.size()) return std::nullopt;
  const Slot& slot = slots_[index];
  if (slot.holders == 0 || slot.generation != id >> kSlotBits) return std::nullopt;
  return index;
}

std::optional<BlockTable::Index> BlockTable::find(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  const Pages* pages = pages_at(at);
  if (!pages) return std::nullopt;
  const auto offset = static_cast<std::size_t>(at - pages->data);
  Index index = pages->first[offset / kPage];
  if (index == kNone) return std::nullopt;
  const std::size_t reserved = slots_[index].reserved;
  if (reserved < kPage) {
    const std::size_t in_page = offset % kPage / reserved;
    if (in_page >= kPage / reserved) return std::nullopt;  // behind the last whole block
    index += static_cast<Index>(in_page);
  }
  const Slot& slot = slots_[index];
  if (slot.holders == 0) return std::nullopt;
  if (offset - slot.offset >= std::max<std::size_t>(slot.asked, 1)) return std::nullopt;
  return index;
}

Block BlockTable::describe(Index index) const {
  const Slot& slot = slots_[index];
  return {slot.generation << kSlotBits | index, slot.segment, slot.offset, slot.asked, slot.data};
}

BlockTable::Index BlockTable::new_slots(std::size_t count) {
  if (auto& spare = spare_[count]; !spare.empty()) {
    Index first = spare.back();
    spare.pop_back();
    return first;
  }
  if (slots_.size() + count > kSlotMask) return kNone;
  const auto first = static_cast<Index>(slots_.size());
  slots_.resize(slots_.size() + count);
  return first;
}

BlockTable::Pages& BlockTable::pages_of(SegmentId id) {
  auto it = std::ranges::find(segments_, id, &Pages::id);
  expects(it != segments_.end(), "a block lies in a segment of its arena");
  return *it;
}

const BlockTable::Pages* BlockTable::pages_at(const std::byte* address) const {
  auto it = std::ranges::upper_bound(segments_, address, {}, &Pages::data);
  if (it == segments_.begin()) return nullptr;
  --it;
  return address < it->data + it->bytes ? &*it : nullptr;
}

BlockTable::Index BlockTable::page_slot(Index index) const {
  const Slot& slot = slots_[index];
  return index - static_cast<Index>(slot.offset % kPage / slot.reserved);
}

}  // namespace tensorferry
