// The books of an arena's blocks: which block lies where, who is free and hot, who has holders.
// Private memory; one thread at a time (the arena's mutex).
//
//   slot      a block that was cut: place, size, holders; keeps its place while it waits to be hot
//   page map  segment → page → the slot of the block that begins at or reaches into that page;
//   small
//             blocks share a page and have consecutive slots there
//
// Nothing is allocated by take_hot(), give_back() and find(): that is the steady state.
#pragma once

#include <tensorferry/transport/arena.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "page_runs.h"
#include "size_classes.h"

namespace tensorferry {

class BlockTable {
 public:
  using Index = std::uint32_t;
  static constexpr Index kNone = 0;  // slot 0 is never used

  BlockTable() : slots_(1) {}

  void add_segment(const Segment& segment);
  void remove_segment(SegmentId id);  // nothing of it is cut

  // The last freed block of the class, or nothing.
  std::optional<Index> take_hot(const SizeClass& of);
  // Cuts free pages into one block of a page or more, or into several small ones, of which the
  // first is given and the others are hot. Nothing when there are too many blocks.
  std::optional<Index> cut(const PageRuns::Run& run, const SizeClass& of);
  // How many pages cut() wants for a block of the class.
  static std::size_t run_bytes(const SizeClass& of) { return of.bytes < kPage ? kPage : of.bytes; }

  // A free block gets one holder.
  Block hand_out(Index index, std::size_t asked);
  // A block without holders is free again, and hot.
  void give_back(Index index);
  // Gives every hot block's pages to `runs`, but for small blocks beside which others are in use.
  void flush(PageRuns& runs);

  std::optional<Index> index_of(BlockId id) const;
  std::optional<Index> find(const void* address) const;
  Block describe(Index index) const;
  std::uint32_t& holders(Index index) { return slots_[index].holders; }
  std::size_t reserved(Index index) const { return slots_[index].reserved; }
  template <class Visit>
  void for_each_live(Visit&& visit) const {
    for (Index index = 1; index < slots_.size(); ++index)
      if (slots_[index].holders > 0) visit(describe(index));
  }

 private:
  // 24 bits of a block's id are its slot, the others count how often that slot was handed out.
  static constexpr int kSlotBits = 24;
  static constexpr std::uint64_t kSlotMask = (std::uint64_t{1} << kSlotBits) - 1;
  static constexpr std::uint64_t kGenerationMask = ~std::uint64_t{0} >> kSlotBits;

  struct Slot {
    std::byte* data = nullptr;
    std::uint64_t offset = 0;
    std::size_t asked = 0;
    std::size_t reserved = 0;
    std::uint64_t generation = 1;
    SegmentId segment = 0;
    std::uint32_t holders = 0;
    std::uint16_t size_class = 0;
    std::uint16_t page_used = 0;  // first slot of a page of small blocks: how many have holders
  };
  struct Pages {
    SegmentId id = 0;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    std::vector<Index> first;  // by page: the slot that begins there or reaches into it
  };

  Index new_slots(std::size_t count);
  Pages& pages_of(SegmentId id);
  const Pages* pages_at(const std::byte* address) const;
  // Of a small block: the first slot of its page.
  Index page_slot(Index index) const;

  std::vector<Slot> slots_;
  // Retired slots to use again, by how many lie in a row (a page of small blocks takes several).
  std::array<std::vector<Index>, kPage / kBlockAlignment + 1> spare_;
  std::array<std::vector<Index>, kSizeClasses> hot_;  // free blocks, last freed last
  std::array<std::size_t, kSizeClasses> existing_{};  // blocks that are cut, free or not
  std::vector<Pages> segments_;                       // by address
};

}  // namespace tensorferry
