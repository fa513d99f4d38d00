#include "output_plan.h"

#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <utility>

#include "ranges.h"

namespace tensorferry::stub {

void OutputPlan::clear() {
  for (auto& [lease, named] : holdings_.named_inputs_) {
    if (named.freed) holdings_.release_input(lease, named.use.get());
  }
  for (auto& [data, named] : holdings_.named_blocks_) {
    if (named.freed) holdings_.release_block(named.block);
  }
  holdings_.named_inputs_.clear();
  holdings_.named_blocks_.clear();
  releases_.clear();
  work_.clear_ready();
  for (Output& output : std::span(outputs_).first(count_)) take_back(output);
  count_ = 0;
}

std::size_t OutputPlan::next_place() {
  if (count_ == outputs_.size()) outputs_.emplace_back();
  outputs_[count_].source = Source::Done;
  outputs_[count_].memory = {};
  outputs_[count_].bytes = 0;
  outputs_[count_].small.clear();
  outputs_[count_].device.reset();
  outputs_[count_].staged_for = {};
  outputs_[count_].owner.reset();
  outputs_[count_].failure.reset();
  return count_++;
}

protocol::MemoryKind OutputPlan::kind_of(const Output& output) {
  return output.device ? protocol::MemoryKind::DeviceChunk : protocol::MemoryKind::Segment;
}

bool OutputPlan::overlaps_a_candidate(const std::byte* data, std::size_t bytes) const {
  return std::ranges::any_of(std::span(outputs_).first(count_), [&](const Output& other) {
    return other.source != Source::Done && overlap({other.data, other.bytes}, {data, bytes});
  });
}

void OutputPlan::lend(Output& output, const Block& block, std::byte* data) {
  output.lent = holdings_.link_.lend(arena_of(output), block, data, output.bytes);
  output.memory = {kind_of(output), block.segment,
                   block.offset + static_cast<std::uint64_t>(data - block.data), output.bytes,
                   output.lent};
}

void OutputPlan::take_back(Output& output) {
  if (output.lent == 0) return;
  const std::uint64_t lease = std::exchange(output.lent, 0);
  if (output.device) return take_back_after_work(output, lease);
  holdings_.link_.take_back(lease);
}

void OutputPlan::sent() noexcept {
  for (Output& output : std::span(outputs_).first(count_)) output.lent = 0;
}

Result<void> OutputPlan::copy_out(Output& output) {
  if (output.device) return copy_on_device(output);
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
  return name_input(output, input);
}

bool OutputPlan::name_input(Output& output, const InputMemory& input) {
  output.source = Source::Input;
  output.lease = input.lease;
  output.owner = input.device;
  output.memory = {kind_of(output), input.segment,
                   input.offset + static_cast<std::uint64_t>(output.data - input.data),
                   output.bytes, input.lease};
  holdings_.named_inputs_.try_emplace(input.lease, false, input.device);
  return true;
}

bool OutputPlan::name_block(Output& output) {
  Arena& arena = arena_of(output);
  if (!arena.owns(output.data)) return false;
  auto block = arena.find(output.data);
  if (!block || output.data + output.bytes > block->data + block->bytes) return false;
  output.source = Source::Block;
  output.block = *block;
  output.owner = holdings_.use_of(*block);
  holdings_.named_blocks_.try_emplace(block->data, false, *block);
  return true;
}

bool OutputPlan::name(Output& output) { return name_input(output) || name_block(output); }

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
  if (free && name(output)) return place;
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
  const std::byte* block = output.block.data;
  auto is_part = [&](auto range) { return overlap(range, bytes); };
  if (find_range(holdings_.moved_, block, is_part) != holdings_.moved_.end()) return false;
  auto is_whole = [&](auto range) { return lies_in(bytes, range); };
  return holdings_.named_blocks_.at(block).freed ||
         find_range(holdings_.given_, block, is_whole) != holdings_.given_.end();
}

void OutputPlan::move_or_copy(Output& output) {
  if (!may_move(output)) {
    if (auto copied = copy_out(output); !copied) output.failure = copied.error();
    output.source = Source::Done;
    return;
  }
  if (output.device) work_is_the_messages(output);
  if (output.source == Source::Block) {
    arena_of(output).add_holder(output.block.id);  // the lease's
    lend(output, output.block, const_cast<std::byte*>(output.data));
    if (!holdings_.named_blocks_.at(output.block.data).freed)
      holdings_.moved_.emplace(output.block.data, std::span(output.data, output.bytes));
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
  for (auto& [data, named] : holdings_.named_blocks_) {
    if (named.freed) holdings_.release_block(named.block);
  }
  holdings_.named_blocks_.clear();
}

}  // namespace tensorferry::stub
