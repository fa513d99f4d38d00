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

void Holdings::drop_block(const Block& block) {
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

OutputPlan::~OutputPlan() {
  // Not settled (an error came in between): what was freed meanwhile goes back now.
  for (auto& [lease, named] : holdings_.named_inputs_) {
    if (named.freed) holdings_.link_.release_input(lease);
  }
  for (auto& [id, named] : holdings_.named_blocks_) {
    if (named.freed) holdings_.link_.arena().release(id);
  }
  holdings_.named_inputs_.clear();
  holdings_.named_blocks_.clear();
}

bool OutputPlan::overlaps_a_candidate(const std::byte* data, std::size_t bytes) const {
  for (const Output& other : outputs_) {
    if (other.source != Source::Done && data < other.data + other.bytes &&
        other.data < data + bytes)
      return true;
  }
  return false;
}

Result<protocol::MemoryRef> OutputPlan::copy_out(const std::byte* data, std::size_t bytes) {
  auto block = holdings_.link_.arena().allocate(bytes);
  if (!block) return std::unexpected(block.error());
  copy_payload(block->data, data, bytes);
  std::uint64_t lease = holdings_.link_.lend(*block, block->data, bytes);
  return protocol::MemoryRef{protocol::MemoryKind::Segment, block->segment, block->offset, bytes,
                             lease};
}

Result<std::size_t> OutputPlan::add(const std::byte* data, std::size_t bytes) {
  Output output;
  output.data = data;
  output.bytes = bytes;
  if (bytes < protocol::kInlineBelowBytes) {
    output.small.assign(data, data + bytes);
    count_copy(bytes, CopyKind::Inline);
    output.memory.bytes = bytes;
    outputs_.push_back(std::move(output));
    return outputs_.size() - 1;
  }
  if (!overlaps_a_candidate(data, bytes)) {
    auto next = holdings_.inputs_.upper_bound(reinterpret_cast<std::uintptr_t>(data));
    if (next != holdings_.inputs_.begin()) {
      const InputMemory& input = *std::prev(next)->second;
      if (input.lease != 0 && data + bytes <= input.data + input.bytes) {
        output.source = Source::Input;
        output.lease = input.lease;
        output.memory = {protocol::MemoryKind::Segment, input.segment,
                         input.offset + static_cast<std::uint64_t>(data - input.data), bytes,
                         input.lease};
        holdings_.named_inputs_.try_emplace(input.lease);
      }
    }
    if (output.source == Source::Done && holdings_.link_.arena().owns(data)) {
      auto block = holdings_.link_.arena().find(data);
      if (block && data + bytes <= block->data + block->bytes) {
        output.source = Source::Block;
        output.block = *block;
        holdings_.named_blocks_.try_emplace(block->id);
      }
    }
  }
  if (output.source == Source::Done) {
    auto memory = copy_out(data, bytes);
    if (!memory) return std::unexpected(memory.error());
    output.memory = *memory;
  }
  outputs_.push_back(std::move(output));
  return outputs_.size() - 1;
}

Result<void> OutputPlan::settle() {
  auto& arena = holdings_.link_.arena();
  for (Output& output : outputs_) {
    if (output.source == Source::Done) continue;
    bool freed = output.source == Source::Input ? holdings_.named_inputs_.at(output.lease).freed
                                                : holdings_.named_blocks_.at(output.block.id).freed;
    if (!freed) {
      auto memory = copy_out(output.data, output.bytes);
      if (!memory) return std::unexpected(memory.error());
      output.memory = *memory;
    } else if (output.source == Source::Block) {
      arena.add_holder(output.block.id);  // the lease's
      auto* data = const_cast<std::byte*>(output.data);
      std::uint64_t lease = holdings_.link_.lend(output.block, data, output.bytes);
      output.memory = {protocol::MemoryKind::Segment, output.block.segment,
                       output.block.offset + static_cast<std::uint64_t>(data - output.block.data),
                       output.bytes, lease};
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
