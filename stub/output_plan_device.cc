// The part of an OutputPlan that deals with memory on devices. What moves and what is copied is
// decided as for the CPU's; here a copy is put on a stream, and events tell when it is done.
#include <algorithm>
#include <utility>

#include "output_plan.h"

namespace tensorferry::stub {

Arena& OutputPlan::arena_of(const Output& output) {
  return output.device ? output.device->use->lane->arena() : holdings_.link_.arena();
}

Device OutputPlan::device(std::size_t place) const {
  const Output& output = outputs_[place];
  return output.device ? output.device->use->device : output.staged_for;
}

bool OutputPlan::is_a_candidate(const InputMemory& input) const {
  return std::ranges::any_of(std::span(outputs_).first(count_), [&](const Output& other) {
    return other.source == Source::Input && other.lease == input.lease;
  });
}

Result<std::size_t> OutputPlan::add(DeviceOutput device) {
  // Before the address is asked for: passed through untouched it needs none.
  const bool untouched = device.input && !device.range.data && device.range.bytes != 0;
  const bool moves = untouched && !is_a_candidate(*device.input);
  const bool fetched = untouched && !moves && is_out_of_reach(device);
  if (untouched && !moves && !fetched) {
    if (auto found = find_address(device); !found) return std::unexpected(found.error());
  }
  const std::byte* data = device.range.data;
  const std::size_t bytes = device.range.bytes;
  const bool free =
      !fetched && !device.range.gather && (moves || !overlaps_a_candidate(data, bytes));
  const std::size_t place = next_place();
  Output& output = outputs_[place];
  std::shared_ptr<void> kept = std::move(device.kept);  // only for a copy: who names memory lets go
  output.device = std::move(device);
  output.data = data;
  output.bytes = bytes;
  if (bytes == 0) return place;
  if (moves ? name_input(output, *output.device->input) : free && name(output)) return place;
  if (auto copied = copy_on_device(output, std::move(kept)); !copied)
    return std::unexpected(copied.error());
  return place;
}

Result<void> OutputPlan::find_address(DeviceOutput& output) {
  Devices& devices = holdings_.link_.devices();
  auto lane = devices.lane(output.use->device);
  if (!lane) return std::unexpected(lane.error());
  const InputMemory& input = *output.input;
  auto address = (*lane)->address(input.segment, input.offset, input.bytes);
  if (!address) return std::unexpected(address.error());
  (*lane)->enter(*output.use);
  output.range.data = *address;
  return {};
}

// An untouched input that was lent before it was known that its chunk can't be mapped here.
bool OutputPlan::is_out_of_reach(const DeviceOutput& device) {
  if (!device.input || device.range.data) return false;
  auto lane = holdings_.link_.devices().lane(device.use->device);
  return lane && (*lane)->stages();
}

Result<void> OutputPlan::copy_by_server(Output& output) {
  auto copy = holdings_.link_.read_device(*output.device->input);
  if (!copy) return std::unexpected(copy.error());
  output.staged_for = output.device->use->device;
  output.device.reset();
  output.data = copy->data;
  auto copied = copy_out(output);
  holdings_.link_.release_input(copy->lease);
  return copied;
}

// Puts a copy of what is held on the stream that made it. `kept` lives until it is done.
Result<void> OutputPlan::copy_on_device(Output& output, std::shared_ptr<void> kept) {
  DeviceOutput& device = *output.device;
  if (!device.range.data) {
    if (is_out_of_reach(device)) return copy_by_server(output);
    if (auto found = find_address(device); !found) return found;
  }
  DeviceLane& lane = *device.use->lane;
  auto block = lane.allocate(output.bytes);
  if (!block) return std::unexpected(block.error());
  auto stream = lane.copy(block->data, device.range, *device.use);
  if (!stream) {
    lane.arena().release(block->id);
    return std::unexpected(stream.error());
  }
  if (output.owner) output.owner->remember(*stream);
  work_.add(lane, *stream, std::move(kept));
  lend(output, *block, block->data);
  return {};
}

// The memory goes with the message, and so does what streams are still doing with it.
void OutputPlan::work_is_the_messages(Output& output) {
  const DeviceUse& use = *output.device->use;
  for (UsedStream stream : use.streams) work_.add(*use.lane, stream);
  if (!output.owner) return;
  for (UsedStream stream : output.owner->streams) work_.add(*output.owner->lane, stream);
  const bool freed =
      output.source == Source::Input || holdings_.named_blocks_.at(output.block.data).freed;
  if (freed) output.owner->streams.clear();
}

// A copy may be on its way there: the block is free when the work is done.
void OutputPlan::take_back_after_work(Output& output, std::uint64_t lease) {
  StubLink* link = &holdings_.link_;
  const DeviceUse& use = *output.device->use;
  const std::shared_ptr<void> taken_back(
      link, [lease](void* of) { static_cast<StubLink*>(of)->take_back(lease); });
  for (UsedStream stream : use.streams) work_.add(*use.lane, stream, taken_back);
}

void OutputPlan::record() {
  auto recorded = work_.record();
  if (recorded) return;
  for (Output& output : std::span(outputs_).first(count_)) {
    if (output.device && output.bytes != 0) output.failure = recorded.error();
  }
}

}  // namespace tensorferry::stub
