#include "output_plan.h"

#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <utility>

namespace tensorferry::stub {
namespace {

bool overlap(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
}

bool lies_in(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

// The first of a block's ranges for which `is` holds; the end where there is none.
auto find_range(auto& ranges, BlockId block, auto is) {
  auto [at, end] = ranges.equal_range(block);
  at = std::find_if(at, end, [&](const auto& entry) { return is(entry.second); });
  return at == end ? ranges.end() : at;
}

}  // namespace

void Holdings::add_input(const InputMemory& memory) {
  inputs_.emplace(reinterpret_cast<std::uintptr_t>(memory.data), &memory);
}

void Holdings::drop_input(const InputMemory& memory) {
  inputs_.erase(reinterpret_cast<std::uintptr_t>(memory.data));
  if (auto it = named_inputs_.find(memory.lease); it != named_inputs_.end()) {
    it->second.freed = true;
  } else {
    link_.release_input(memory.lease);
  }
}

Holdings::Given Holdings::give(std::span<const std::byte> bytes) {
  auto block = link_.arena().find(bytes.data());
  if (!block) return Given::NotOurs;
  auto is_part = [&](auto range) { return overlap(range, bytes); };
  if (find_range(moved_, block->id, is_part) != moved_.end()) return Given::MovedBefore;
  given_.emplace(block->id, bytes);
  return Given::Yes;
}

void Holdings::drop_block(const Block& block) {
  if (auto it = named_blocks_.find(block.id); it != named_blocks_.end()) {
    it->second.freed = true;
  } else {
    release_block(block.id);
  }
}

void Holdings::release_block(BlockId id) {
  given_.erase(id);
  moved_.erase(id);
  link_.arena().release(id);
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

void OutputPlan::clear() {
  for (auto& [lease, named] : holdings_.named_inputs_) {
    if (named.freed) holdings_.link_.release_input(lease);
  }
  for (auto& [id, named] : holdings_.named_blocks_) {
    if (named.freed) holdings_.release_block(id);
  }
  holdings_.named_inputs_.clear();
  holdings_.named_blocks_.clear();
  releases_.clear();
  for (Output& output : std::span(outputs_).first(count_)) take_back(output);
  count_ = 0;
}

std::size_t OutputPlan::next_place() {
  if (count_ == outputs_.size()) outputs_.emplace_back();
  outputs_[count_].source = Source::Done;
  outputs_[count_].memory = {};
  outputs_[count_].bytes = 0;
  outputs_[count_].small.clear();
  outputs_[count_].failure.reset();
  return count_++;
}

bool OutputPlan::overlaps_a_candidate(const std::byte* data, std::size_t bytes) const {
  return std::ranges::any_of(std::span(outputs_).first(count_), [&](const Output& other) {
    return other.source != Source::Done && overlap({other.data, other.bytes}, {data, bytes});
  });
}

void OutputPlan::lend(Output& output, const Block& block, std::byte* data) {
  output.lent = holdings_.link_.lend(block, data, output.bytes);
  output.memory = {protocol::MemoryKind::Segment, block.segment,
                   block.offset + static_cast<std::uint64_t>(data - block.data), output.bytes,
                   output.lent};
}

void OutputPlan::take_back(Output& output) {
  if (output.lent != 0) holdings_.link_.take_back(std::exchange(output.lent, 0));
}

void OutputPlan::sent() noexcept {
  for (Output& output : std::span(outputs_).first(count_)) output.lent = 0;
}

Result<void> OutputPlan::copy_out(Output& output) {
  auto block = holdings_.link_.arena().allocate(output.bytes);
  if (!block) return std::unexpected(block.error());
  copy_payload(block->data, output.data, output.bytes);
  lend(output, *block, block->data);
  return {};
}

Result<OutputPlan::Room> OutputPlan::reserve(std::size_t bytes) {
  if (bytes < protocol::kInlineBelowBytes) {
    const std::size_t place = next_place();
    outputs_[place].small.resize(bytes);
    outputs_[place].memory.bytes = bytes;
    return Room{place, outputs_[place].small};
  }
  auto block = holdings_.link_.arena().allocate(bytes);
  if (!block) return std::unexpected(block.error());
  const std::size_t place = next_place();
  outputs_[place].bytes = bytes;
  lend(outputs_[place], *block, block->data);
  return Room{place, {block->data, bytes}};
}

// The output lies in an input that Python holds: it may move with the input's lease.
bool OutputPlan::name_input(Output& output) {
  auto next = holdings_.inputs_.upper_bound(reinterpret_cast<std::uintptr_t>(output.data));
  if (next == holdings_.inputs_.begin()) return false;
  const InputMemory& input = *std::prev(next)->second;
  if (input.lease == 0 || output.data + output.bytes > input.data + input.bytes) return false;
  output.source = Source::Input;
  output.lease = input.lease;
  output.memory = {protocol::MemoryKind::Segment, input.segment,
                   input.offset + static_cast<std::uint64_t>(output.data - input.data),
                   output.bytes, input.lease};
  holdings_.named_inputs_.try_emplace(input.lease);
  return true;
}

bool OutputPlan::name_block(Output& output) {
  if (!holdings_.link_.arena().owns(output.data)) return false;
  auto block = holdings_.link_.arena().find(output.data);
  if (!block || output.data + output.bytes > block->data + block->bytes) return false;
  output.source = Source::Block;
  output.block = *block;
  holdings_.named_blocks_.try_emplace(block->id);
  return true;
}

Result<std::size_t> OutputPlan::add(const std::byte* data, std::size_t bytes) {
  if (bytes < protocol::kInlineBelowBytes) {
    auto room = reserve(bytes);
    copy_payload(room->bytes.data(), data, bytes, CopyKind::Inline);
    return room->place;
  }
  const bool free = !overlaps_a_candidate(data, bytes);
  const std::size_t place = next_place();
  Output& output = outputs_[place];
  output.data = data;
  output.bytes = bytes;
  if (free && (name_input(output) || name_block(output))) return place;
  if (auto copied = copy_out(output); !copied) return std::unexpected(copied.error());
  return place;
}

void OutputPlan::drop(std::size_t place) {
  outputs_[place].source = Source::Done;
  take_back(outputs_[place]);
}

bool OutputPlan::may_move(const Output& output) const {
  if (output.source == Source::Input) return holdings_.named_inputs_.at(output.lease).freed;
  const std::span<const std::byte> bytes(output.data, output.bytes);
  const BlockId block = output.block.id;
  auto is_part = [&](auto range) { return overlap(range, bytes); };
  if (find_range(holdings_.moved_, block, is_part) != holdings_.moved_.end()) return false;
  auto is_whole = [&](auto range) { return lies_in(bytes, range); };
  return holdings_.named_blocks_.at(block).freed ||
         find_range(holdings_.given_, block, is_whole) != holdings_.given_.end();
}

void OutputPlan::move_or_copy(Output& output) {
  if (!may_move(output)) {
    if (auto copied = copy_out(output); !copied) output.failure = copied.error();
  } else if (output.source == Source::Block) {
    holdings_.link_.arena().add_holder(output.block.id);  // the lease's
    lend(output, output.block, const_cast<std::byte*>(output.data));
    if (!holdings_.named_blocks_.at(output.block.id).freed)
      holdings_.moved_.emplace(output.block.id, std::span(output.data, output.bytes));
  }
  output.source = Source::Done;
}

void OutputPlan::settle() {
  for (Output& output : std::span(outputs_).first(count_)) {
    if (output.source != Source::Done) move_or_copy(output);
  }
  for (auto& [lease, named] : holdings_.named_inputs_) {
    if (named.freed) releases_.push_back(lease);
  }
  holdings_.named_inputs_.clear();
  for (auto& [id, named] : holdings_.named_blocks_) {
    if (named.freed) holdings_.release_block(id);
  }
  holdings_.named_blocks_.clear();
}

}  // namespace tensorferry::stub
