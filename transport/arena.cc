#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/fork_guard.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string>

#include "address_ranges.h"
#include "block_table.h"
#include "page_runs.h"
#include "size_classes.h"

namespace tensorferry {
namespace {

std::string bytes_text(std::size_t bytes) { return std::to_string(bytes) + " bytes"; }

}  // namespace

struct Arena::Impl {
  ArenaOptions options;
  SegmentSource source;
  SegmentSink dropped;

  mutable std::mutex mutex;  // guards what follows
  BlockTable blocks;
  PageRuns runs;
  std::map<SegmentId, std::shared_ptr<Segment>> segments;
  ArenaStatistics statistics;
  std::size_t growing_bytes = 0;  // asked of the source just now, by threads without the mutex
  std::uint64_t generation = fork_generation();  // threads that grow are gone in a forked child

  AddressRanges ranges;
  std::atomic<std::uint32_t> grown{0};  // counts up when some thread has finished growing

  // ---- under the mutex
  std::optional<Block> take(std::size_t bytes) {
    if (bytes > kLargestBlock) return std::nullopt;
    const SizeClass wanted = size_class(bytes);
    auto index = blocks.take_hot(wanted);
    if (!index) index = cut(wanted);
    if (!index) return std::nullopt;
    statistics.bytes_in_use += wanted.bytes;
    ++statistics.blocks_in_use;
    statistics.peak_bytes = std::max(statistics.peak_bytes, statistics.bytes_in_use);
    return blocks.hand_out(*index, bytes);
  }

  // From the free pages; what waits to be used hot is given up for it if need be.
  std::optional<BlockTable::Index> cut(const SizeClass& wanted) {
    auto run = runs.take(BlockTable::run_bytes(wanted));
    if (!run) {
      blocks.flush(runs);
      run = runs.take(BlockTable::run_bytes(wanted));
    }
    if (!run) return std::nullopt;
    auto index = blocks.cut(*run, wanted);
    if (!index) runs.give(*run);
    return index;
  }

  void give_back(BlockTable::Index index) {
    statistics.bytes_in_use -= blocks.reserved(index);
    --statistics.blocks_in_use;
    blocks.give_back(index);
  }

  void add(std::shared_ptr<Segment> segment) {
    blocks.add_segment(*segment);
    runs.add_segment(segment->id(), segment->bytes());
    statistics.segment_bytes += segment->bytes();
    ++statistics.segments;
    statistics.peak_segment_bytes =
        std::max(statistics.peak_segment_bytes, statistics.segment_bytes);
    segments.emplace(segment->id(), std::move(segment));
    publish_ranges();
  }

  std::shared_ptr<Segment> remove(SegmentId id) {
    auto segment = std::move(segments.at(id));
    segments.erase(id);
    runs.remove_idle(id, segment->bytes());
    blocks.remove_segment(id);
    statistics.segment_bytes -= segment->bytes();
    --statistics.segments;
    return segment;
  }

  void publish_ranges() {
    std::vector<AddressRanges::Range> fresh;
    for (const auto& [id, segment] : segments) {
      const auto begin = reinterpret_cast<std::uintptr_t>(segment->data());
      fresh.emplace_back(begin, begin + segment->bytes());
    }
    ranges.assign(fresh);
  }

  // Bytes that may still be asked of the source, in whole pages.
  std::size_t room() {
    if (generation != fork_generation()) {
      generation = fork_generation();
      growing_bytes = 0;
    }
    const std::size_t taken = statistics.segment_bytes + growing_bytes;
    return (options.max_bytes - std::min(options.max_bytes, taken)) / kPage * kPage;
  }

  std::size_t wish() const {
    if (segments.empty()) return options.initial_bytes;
    return std::max(options.growth_bytes, statistics.segment_bytes / 2);
  }

  std::unexpected<Error> no_room(std::size_t bytes) const {
    return failure(ErrorCode::OutOfSharedMemory,
                   "no room for " + bytes_text(bytes) +
                       " in the arena: " + bytes_text(statistics.bytes_in_use) + " are in use, " +
                       bytes_text(statistics.segment_bytes) + " of at most " +
                       std::to_string(options.max_bytes) +
                       " are allocated; raise arena_max_bytes, or hold fewer tensors at a time");
  }

  // ---- without the mutex
  // Asks the source for as much as is worth while, or at least for `need`. `wanted` is counted in
  // growing_bytes.
  Result<std::shared_ptr<Segment>> ask(std::size_t wanted, std::size_t need) {
    auto segment = source(wanted);
    if (!segment && need < wanted) segment = source(need);
    if (segment && (*segment)->bytes() < need) {
      return failure(ErrorCode::Internal, "asked for a segment of " + bytes_text(need) + ", got " +
                                              bytes_text((*segment)->bytes()));
    }
    return segment;
  }

  // Adds a segment in which `bytes` fit, or waits for another thread that is adding one.
  Result<void> grow(std::size_t bytes, std::unique_lock<std::mutex>& lock) {
    if (bytes > kLargestBlock || bytes > options.max_bytes) return no_room(bytes);
    const std::size_t need = BlockTable::run_bytes(size_class(bytes));
    const std::size_t free = room();
    if (need > free) {
      if (growing_bytes == 0) return no_room(bytes);
      const std::uint32_t seen = grown.load();
      lock.unlock();
      grown.wait(seen);
      lock.lock();
      return {};
    }
    const std::size_t wanted = std::min((std::max(wish(), need) + kPage - 1) / kPage * kPage, free);
    growing_bytes += wanted;
    lock.unlock();
    auto segment = ask(wanted, need);
    lock.lock();
    growing_bytes -= wanted;
    if (segment) add(std::move(*segment));
    grown.fetch_add(1);
    grown.notify_all();
    if (!segment) return std::unexpected(segment.error());
    return {};
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
  std::unique_lock lock(impl_->mutex);
  while (true) {
    if (auto block = impl_->take(bytes)) return *block;
    if (auto grown = impl_->grow(bytes, lock); !grown) return std::unexpected(grown.error());
  }
}

std::optional<Block> Arena::try_allocate(std::size_t bytes) {
  std::scoped_lock lock(impl_->mutex);
  return impl_->take(bytes);
}

bool Arena::add_holder(BlockId id, std::uint32_t count) {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->blocks.index_of(id);
  if (!index) return false;
  impl_->blocks.holders(*index) += count;
  return true;
}

bool Arena::release(BlockId id) {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->blocks.index_of(id);
  if (!index) return false;
  if (--impl_->blocks.holders(*index) == 0) impl_->give_back(*index);
  return true;
}

std::optional<Block> Arena::find(const void* address) const {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->blocks.find(address);
  if (!index) return std::nullopt;
  return impl_->blocks.describe(*index);
}

bool Arena::owns(const void* address) const noexcept { return impl_->ranges.contains(address); }

std::optional<Block> Arena::lookup(BlockId id) const {
  std::scoped_lock lock(impl_->mutex);
  auto index = impl_->blocks.index_of(id);
  if (!index) return std::nullopt;
  return impl_->blocks.describe(*index);
}

std::vector<Block> Arena::live_blocks() const {
  std::scoped_lock lock(impl_->mutex);
  std::vector<Block> blocks;
  impl_->blocks.for_each_live([&](const Block& block) { blocks.push_back(block); });
  return blocks;
}

std::size_t Arena::trim() { return trim(impl_->options.keep_idle_bytes); }

std::size_t Arena::trim(std::size_t keep_idle_bytes) {
  std::vector<std::shared_ptr<Segment>> gone;
  {
    std::scoped_lock lock(impl_->mutex);
    impl_->blocks.flush(impl_->runs);
    std::vector<SegmentId> surplus;
    std::size_t kept = 0;
    for (const auto& [id, segment] : impl_->segments) {
      if (!impl_->runs.is_idle(id, segment->bytes())) continue;
      if (segment->bytes() <= keep_idle_bytes - kept)
        kept += segment->bytes();
      else
        surplus.push_back(id);
    }
    for (SegmentId id : surplus) gone.push_back(impl_->remove(id));
    if (!gone.empty()) impl_->publish_ranges();
  }
  std::size_t given_back = 0;
  for (const auto& segment : gone) {
    given_back += segment->bytes();
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
  impl_->blocks.for_each_live(
      [&](const Block& block) { ranges[block.segment].emplace_back(block.data, block.bytes); });
  std::vector<std::pair<std::shared_ptr<Segment>, std::vector<std::span<std::byte>>>> result;
  result.reserve(ranges.size());
  for (auto& [id, live] : ranges) result.emplace_back(impl_->segments.at(id), std::move(live));
  return result;
}

void Arena::lock_for_fork() noexcept { impl_->mutex.lock(); }
void Arena::unlock_after_fork() noexcept { impl_->mutex.unlock(); }

}  // namespace tensorferry
