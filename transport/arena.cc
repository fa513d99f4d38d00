#include <tensorferry/transport/arena.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "page_runs.h"
#include "size_classes.h"

namespace tensorferry {
namespace {

constexpr std::uint64_t kSlotBits = 24;
constexpr std::uint64_t kSlotMask = (std::uint64_t{1} << kSlotBits) - 1;

// A block's place and state. Free ones keep their memory while they wait on their class's list.
struct Slot {
  std::uint64_t generation = 1;
  SegmentId segment = 0;
  std::uint64_t offset = 0;
  std::size_t asked = 0;
  std::size_t reserved = 0;
  std::size_t size_class = 0;
  std::byte* data = nullptr;
  std::uint32_t holders = 0;
};

// Where the arena's segments lie, for owns(): immutable once published.
struct Ranges {
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> sorted;
};

}  // namespace

struct Arena::Impl {
  ArenaOptions options;
  SegmentSource source;
  SegmentSink dropped;

  mutable std::mutex mutex;  // guards what follows
  std::vector<Slot> slots;
  std::vector<std::uint32_t> spare_slots;
  std::array<std::vector<std::uint32_t>, kSizeClasses> hot;  // free blocks, last freed last
  PageRuns runs;
  std::map<SegmentId, std::shared_ptr<Segment>> segments;
  std::map<std::uintptr_t, std::uint32_t> live;  // address → slot, of blocks handed out
  std::vector<std::unique_ptr<Ranges>>
      all_ranges;  // published ones stay, since readers hold no lock
  ArenaStatistics statistics;

  std::atomic<const Ranges*> ranges{nullptr};

  // ---- under the mutex
  Block describe(std::uint32_t index) const {
    const Slot& slot = slots[index];
    return {slot.generation << kSlotBits | index, slot.segment, slot.offset, slot.asked, slot.data};
  }

  std::optional<std::uint32_t> index_of(BlockId id) const {
    std::uint64_t index = id & kSlotMask;
    if (index >= slots.size()) return std::nullopt;
    const Slot& slot = slots[index];
    if (slot.holders == 0 || slot.generation != id >> kSlotBits) return std::nullopt;
    return static_cast<std::uint32_t>(index);
  }

  Block hand_out(std::uint32_t index, std::size_t asked) {
    Slot& slot = slots[index];
    slot.asked = asked;
    slot.holders = 1;
    live.emplace(reinterpret_cast<std::uintptr_t>(slot.data), index);
    statistics.bytes_in_use += slot.reserved;
    ++statistics.blocks_in_use;
    statistics.peak_bytes = std::max(statistics.peak_bytes, statistics.bytes_in_use);
    return describe(index);
  }

  std::optional<Block> take(std::size_t bytes) {
    SizeClass wanted = size_class(bytes);
    auto& list = hot[wanted.index];
    if (!list.empty()) {
      std::uint32_t index = list.back();
      list.pop_back();
      return hand_out(index, bytes);
    }
    if (wanted.bytes < kPage) return take_small(wanted, bytes);
    auto run = take_run(wanted.bytes);
    if (!run) return std::nullopt;
    return hand_out(new_slot(*run, wanted), bytes);
  }

  // A page is cut into blocks of one class; they stay that.
  std::optional<Block> take_small(const SizeClass& wanted, std::size_t bytes) {
    auto run = take_run(kPage);
    if (!run) return std::nullopt;
    for (std::uint64_t at = 0; at + wanted.bytes <= kPage; at += wanted.bytes) {
      PageRuns::Run piece{run->segment, run->offset + at, wanted.bytes};
      hot[wanted.index].push_back(new_slot(piece, wanted));
    }
    std::uint32_t index = hot[wanted.index].back();
    hot[wanted.index].pop_back();
    return hand_out(index, bytes);
  }

  // From the free pages; what waits on the hot lists is given up for it if need be.
  std::optional<PageRuns::Run> take_run(std::size_t bytes) {
    auto run = runs.take(bytes);
    if (run) return run;
    flush_hot();
    return runs.take(bytes);
  }

  void flush_hot() {
    for (auto& list : hot) {
      std::erase_if(list, [&](std::uint32_t index) {
        Slot& slot = slots[index];
        if (slot.reserved < kPage) return false;
        runs.give({slot.segment, slot.offset, slot.reserved});
        retire(index);
        return true;
      });
    }
  }

  std::uint32_t new_slot(const PageRuns::Run& run, const SizeClass& of) {
    std::uint32_t index;
    if (spare_slots.empty()) {
      index = static_cast<std::uint32_t>(slots.size());
      expects(index < kSlotMask, "an arena has fewer than 2^24 blocks");
      slots.emplace_back();
    } else {
      index = spare_slots.back();
      spare_slots.pop_back();
    }
    Slot& slot = slots[index];
    slot.segment = run.segment;
    slot.offset = run.offset;
    slot.reserved = run.bytes;
    slot.size_class = of.index;
    slot.data = segments.at(run.segment)->data() + run.offset;
    slot.holders = 0;
    return index;
  }

  void retire(std::uint32_t index) { spare_slots.push_back(index); }

  void give_back(std::uint32_t index) {
    Slot& slot = slots[index];
    statistics.bytes_in_use -= slot.reserved;
    --statistics.blocks_in_use;
    live.erase(reinterpret_cast<std::uintptr_t>(slot.data));
    ++slot.generation;
    hot[slot.size_class].push_back(index);
  }

  void add(std::shared_ptr<Segment> segment) {
    runs.add_segment(segment->id(), segment->bytes());
    statistics.segment_bytes += segment->bytes();
    ++statistics.segments;
    statistics.peak_segment_bytes =
        std::max(statistics.peak_segment_bytes, statistics.segment_bytes);
    segments.emplace(segment->id(), std::move(segment));
    publish_ranges();
  }

  void publish_ranges() {
    auto fresh = std::make_unique<Ranges>();
    for (const auto& [id, segment] : segments) {
      auto begin = reinterpret_cast<std::uintptr_t>(segment->data());
      fresh->sorted.emplace_back(begin, begin + segment->bytes());
    }
    std::ranges::sort(fresh->sorted);
    ranges.store(fresh.get(), std::memory_order_release);
    all_ranges.push_back(std::move(fresh));
  }

  // How large the next segment is to be; an error when `bytes` doesn't fit under the maximum.
  Result<std::size_t> next_segment_bytes(std::size_t bytes) const {
    std::size_t need = (size_class(bytes).bytes + kPage - 1) / kPage * kPage;
    std::size_t room = options.max_bytes - std::min(options.max_bytes, statistics.segment_bytes);
    if (need > room) {
      return failure(ErrorCode::OutOfSharedMemory,
                     "no room for " + std::to_string(bytes) +
                         " bytes in the arena: " + std::to_string(statistics.bytes_in_use) +
                         " bytes are in use, " + std::to_string(statistics.segment_bytes) +
                         " of at most " + std::to_string(options.max_bytes) +
                         " are allocated; raise arena_max_bytes, or hold fewer tensors at a time");
    }
    std::size_t wish = segments.empty()
                           ? options.initial_bytes
                           : std::max(options.growth_bytes, statistics.segment_bytes / 2);
    return std::min(std::max(wish, need), room);
  }
};

Arena::Arena(ArenaOptions options, SegmentSource source, SegmentSink dropped)
    : impl_(std::make_unique<Impl>()) {
  impl_->options = options;
  impl_->source = std::move(source);
  impl_->dropped = std::move(dropped);
}

Arena::~Arena() = default;

Result<Block> Arena::allocate(std::size_t bytes) {
  while (true) {
    Result<std::size_t> grow{0};
    {
      std::scoped_lock lock(impl_->mutex);
      if (bytes > impl_->options.max_bytes) {
        grow = impl_->next_segment_bytes(impl_->options.max_bytes + 1);
        grow.error().message = "no room for " + std::to_string(bytes) +
                               " bytes: the arena may have at most " +
                               std::to_string(impl_->options.max_bytes) + "; raise arena_max_bytes";
      } else {
        if (auto block = impl_->take(bytes)) return *block;
        grow = impl_->next_segment_bytes(bytes);
      }
    }
    if (!grow) return std::unexpected(grow.error());
    auto segment = impl_->source(*grow);
    if (!segment) return std::unexpected(segment.error());
    std::scoped_lock lock(impl_->mutex);
    impl_->add(std::move(*segment));
  }
}

std::optional<Block> Arena::try_allocate(std::size_t bytes) {
  std::scoped_lock lock(impl_->mutex);
  return impl_->take(bytes);
}

bool Arena::add_holder(BlockId id, std::uint32_t count) {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->index_of(id);
  if (!index) return false;
  impl_->slots[*index].holders += count;
  return true;
}

bool Arena::release(BlockId id) {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->index_of(id);
  if (!index) return false;
  if (--impl_->slots[*index].holders == 0) impl_->give_back(*index);
  return true;
}

std::optional<Block> Arena::find(const void* address) const {
  auto at = reinterpret_cast<std::uintptr_t>(address);
  std::scoped_lock lock(impl_->mutex);
  auto it = impl_->live.upper_bound(at);
  if (it == impl_->live.begin()) return std::nullopt;
  --it;
  const Slot& slot = impl_->slots[it->second];
  if (at >= it->first + std::max<std::size_t>(slot.asked, 1)) return std::nullopt;
  return impl_->describe(it->second);
}

bool Arena::owns(const void* address) const noexcept {
  const Ranges* ranges = impl_->ranges.load(std::memory_order_acquire);
  if (!ranges) return false;
  auto at = reinterpret_cast<std::uintptr_t>(address);
  auto it = std::ranges::upper_bound(ranges->sorted, at, {},
                                     [](const auto& range) { return range.first; });
  return it != ranges->sorted.begin() && at < std::prev(it)->second;
}

std::optional<Block> Arena::lookup(BlockId id) const {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->index_of(id);
  if (!index) return std::nullopt;
  return impl_->describe(*index);
}

std::vector<Block> Arena::live_blocks() const {
  std::scoped_lock lock(impl_->mutex);
  std::vector<Block> blocks;
  for (const auto& [address, index] : impl_->live) blocks.push_back(impl_->describe(index));
  return blocks;
}

std::size_t Arena::trim() { return trim(impl_->options.keep_idle_bytes); }

std::size_t Arena::trim(std::size_t keep_idle_bytes) {
  std::vector<std::shared_ptr<Segment>> gone;
  std::size_t given_back = 0;
  {
    std::scoped_lock lock(impl_->mutex);
    impl_->flush_hot();
    std::size_t idle = 0;
    for (auto it = impl_->segments.begin(); it != impl_->segments.end();) {
      auto& [id, segment] = *it;
      if (!impl_->runs.is_idle(id, segment->bytes()) ||
          (idle += segment->bytes()) <= keep_idle_bytes) {
        ++it;
        continue;
      }
      impl_->runs.remove_idle(id, segment->bytes());
      given_back += segment->bytes();
      impl_->statistics.segment_bytes -= segment->bytes();
      --impl_->statistics.segments;
      gone.push_back(std::move(segment));
      it = impl_->segments.erase(it);
    }
    if (!gone.empty()) impl_->publish_ranges();
  }
  for (const auto& segment : gone) {
    if (impl_->dropped) impl_->dropped(segment->id());
  }
  return given_back;
}

std::size_t Arena::bytes_in_use() const noexcept {
  std::scoped_lock lock(impl_->mutex);
  return impl_->statistics.bytes_in_use;
}

ArenaStatistics Arena::statistics() const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->statistics;
}

const ArenaOptions& Arena::options() const noexcept { return impl_->options; }

std::vector<std::shared_ptr<Segment>> Arena::segments() const {
  std::scoped_lock lock(impl_->mutex);
  std::vector<std::shared_ptr<Segment>> result;
  for (const auto& [id, segment] : impl_->segments) result.push_back(segment);
  return result;
}

std::vector<std::pair<std::shared_ptr<Segment>, std::vector<std::span<std::byte>>>>
Arena::live_ranges_locked() const {
  std::map<SegmentId, std::vector<std::span<std::byte>>> ranges;
  for (const auto& [address, index] : impl_->live) {
    const Slot& slot = impl_->slots[index];
    ranges[slot.segment].emplace_back(slot.data, slot.asked);
  }
  std::vector<std::pair<std::shared_ptr<Segment>, std::vector<std::span<std::byte>>>> result;
  result.reserve(ranges.size());
  for (auto& [id, live] : ranges) result.emplace_back(impl_->segments.at(id), std::move(live));
  return result;
}

void Arena::lock_for_fork() noexcept { impl_->mutex.lock(); }
void Arena::unlock_after_fork() noexcept { impl_->mutex.unlock(); }

}  // namespace tensorferry
