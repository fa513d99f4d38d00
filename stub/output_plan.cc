#include "output_plan.h"

#include <tensorferry/transport/copy.h>

namespace tensorferry::stub {

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

bool Holdings::give(const void* data) {
  auto block = link_.arena().find(data);
  if (block) given_blocks_.insert(block->id);
  return block.has_value();
}

void Holdings::drop_block(const Block& block) {
  given_blocks_.erase(block.id);
  if (auto it = named_blocks_.find(block.id); it != named_blocks_.end()) {
    it->second.freed = true;
  } else {
    link_.arena().release(block.id);
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

void OutputPlan::clear() {
  for (auto& [lease, named] : holdings_.named_inputs_) {
    if (named.freed) holdings_.link_.release_input(lease);
  }
  for (auto& [id, named] : holdings_.named_blocks_) {
    if (named.freed) holdings_.link_.arena().release(id);
  }
  holdings_.named_inputs_.clear();
  holdings_.named_blocks_.clear();
  releases_.clear();
  count_ = 0;
}

std::size_t OutputPlan::next_place() {
  if (count_ == outputs_.size()) outputs_.emplace_back();
  outputs_[count_].source = Source::Done;
  outputs_[count_].memory = {};
  outputs_[count_].small.clear();
  return count_++;
}

bool OutputPlan::overlaps_a_candidate(const std::byte* data, std::size_t bytes) const {
  for (const Output& other : std::span(outputs_).first(count_)) {
    if (other.source != Source::Done && data < other.data + other.bytes &&
        other.data < data + bytes)
      return true;
  }
  return false;
}

protocol::MemoryRef OutputPlan::lend(const Block& block, std::byte* data, std::size_t bytes) {
  const std::uint64_t lease = holdings_.link_.lend(block, data, bytes);
  return {protocol::MemoryKind::Segment, block.segment,
          block.offset + static_cast<std::uint64_t>(data - block.data), bytes, lease};
}

Result<protocol::MemoryRef> OutputPlan::copy_out(const std::byte* data, std::size_t bytes) {
  auto block = holdings_.link_.arena().allocate(bytes);
  if (!block) return std::unexpected(block.error());
  copy_payload(block->data, data, bytes);
  return lend(*block, block->data, bytes);
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
  outputs_[place].memory = lend(*block, block->data, bytes);
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
  auto memory = copy_out(data, bytes);
  if (!memory) return std::unexpected(memory.error());
  output.memory = *memory;
  return place;
}

bool OutputPlan::may_move(const Output& output) const {
  if (output.source == Source::Input) return holdings_.named_inputs_.at(output.lease).freed;
  return holdings_.named_blocks_.at(output.block.id).freed ||
         holdings_.given_blocks_.contains(output.block.id);
}

Result<void> OutputPlan::settle() {
  auto& arena = holdings_.link_.arena();
  for (Output& output : std::span(outputs_).first(count_)) {
    if (output.source == Source::Done) continue;
    if (!may_move(output)) {
      auto memory = copy_out(output.data, output.bytes);
      if (!memory) return std::unexpected(memory.error());
      output.memory = *memory;
    } else if (output.source == Source::Block) {
      holdings_.given_blocks_.erase(output.block.id);  // once: the next time it is another's
      arena.add_holder(output.block.id);               // the lease's
      output.memory = lend(output.block, const_cast<std::byte*>(output.data), output.bytes);
    }
    output.source = Source::Done;
  }
  for (auto& [lease, named] : holdings_.named_inputs_) {
    if (named.freed) releases_.push_back(lease);
  }
  holdings_.named_inputs_.clear();
  for (auto& [id, named] : holdings_.named_blocks_) {
    if (named.freed) arena.release(id);  // NumPy's own hold
  }
  holdings_.named_blocks_.clear();
  return {};
}

}  // namespace tensorferry::stub
