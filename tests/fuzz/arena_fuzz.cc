// Any sequence of an arena's operations, against books of our own: blocks never overlap, keep their
// bytes, are found by each of their addresses and by no stale name, and nothing is left at the end.
#include <tensorferry/transport/arena.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "fuzz/fuzz_input.h"

namespace {

using namespace tensorferry;

struct Held {
  Block block;
  std::uint32_t holders;
  std::byte mark;
};

void require(bool holds) {
  if (!holds) std::abort();
}

class Model {
 public:
  void allocate(std::size_t bytes, bool may_grow) {
    std::optional<Block> block;
    if (may_grow) {
      if (auto grown = arena_.allocate(bytes)) block = *grown;
    } else {
      block = arena_.try_allocate(bytes);
    }
    if (!block) return;
    require(block->bytes == bytes && !names_.contains(block->id));
    require(reinterpret_cast<std::uintptr_t>(block->data) % 64 == 0);
    const std::byte* end = block->data + std::max<std::size_t>(bytes, 1);
    for (const auto& [id, held] : held_)
      require(end <= held.block.data || block->data >= held.block.data + held.block.bytes);
    const auto mark = static_cast<std::byte>(++marks_);
    std::memset(block->data, static_cast<int>(mark), bytes);
    names_.emplace(block->id, block->data);
    held_.emplace(block->id, Held{*block, 1, mark});
  }

  void release(std::size_t which) {
    if (held_.empty()) return;
    auto it = std::next(held_.begin(), static_cast<std::ptrdiff_t>(which % held_.size()));
    check(it->second);
    const BlockId id = it->first;
    if (--it->second.holders == 0) held_.erase(it);
    require(arena_.release(id));
    if (!held_.contains(id)) require(!arena_.release(id) && !arena_.lookup(id));
  }

  void hold(std::size_t which) {
    if (held_.empty()) return;
    auto it = std::next(held_.begin(), static_cast<std::ptrdiff_t>(which % held_.size()));
    require(arena_.add_holder(it->first));
    ++it->second.holders;
  }

  void trim(std::size_t keep) {
    arena_.trim(keep);
    for (const auto& [id, held] : held_) check(held);
  }

  void finish() {
    require(arena_.statistics().blocks_in_use == held_.size());
    while (!held_.empty()) release(0);
    require(arena_.bytes_in_use() == 0);
    arena_.trim(0);
    require(arena_.statistics().segments == 0 && arena_.statistics().segment_bytes == 0);
  }

 private:
  void check(const Held& held) const {
    const Block& block = held.block;
    for (std::size_t at :
         {std::size_t{0}, block.bytes / 2, block.bytes - std::min<std::size_t>(block.bytes, 1)}) {
      if (block.bytes > 0) require(block.data[at] == held.mark);
      auto found = arena_.find(block.data + at);
      require(found && found->id == block.id && arena_.owns(block.data + at));
    }
  }

  SegmentId next_ = 1;
  Arena arena_{{.initial_bytes = 64 << 10, .growth_bytes = 64 << 10, .max_bytes = 1 << 20},
               [this](std::size_t bytes) { return Segment::create(next_++, bytes); }};
  std::map<BlockId, Held> held_;
  std::map<BlockId, std::byte*> names_;  // all that were ever given
  unsigned marks_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  FuzzInput input(data, size);
  Model model;
  for (int step = 0; step < 400 && !input.done(); ++step) {
    const std::uint8_t choice = input.byte();
    if (choice < 100) {
      const std::size_t bytes =
          choice < 60 ? input.byte() * 8u : input.number<std::uint16_t>() * 3u;
      model.allocate(bytes, choice % 4 != 0);
    } else if (choice < 105) {
      model.allocate(input.number<std::uint64_t>(), true);
    } else if (choice < 200) {
      model.release(input.byte());
    } else if (choice < 240) {
      model.hold(input.byte());
    } else {
      model.trim(input.byte() * std::size_t{4096});
    }
  }
  model.finish();
  return 0;
}
