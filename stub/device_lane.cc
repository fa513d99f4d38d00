#include "device_lane.h"

#include <tensorferry/cuda/gpu_error.h>

#include <string>
#include <utility>

namespace tensorferry::stub {
namespace {

constexpr std::chrono::seconds kPatience{30};
constexpr std::size_t kPage = 4096;

}  // namespace

Result<void> DeviceLane::open(LocalDevice& local) {
  std::scoped_lock lock(open_mutex_);
  if (!opened_) {
    opened_ = open_once(local);
    if (*opened_) is_open_.store(true, std::memory_order_release);
  }
  return *opened_;
}

Result<void> DeviceLane::open_once(LocalDevice& local) {
  if (auto found = find_rung(local); !found) return found;
  local_ = &local;
  if (stages()) chunks_.clear();
  auto dropped = stages() ? [](SegmentId) {} : peer_.say_dropped;
  arena_ = std::make_unique<Arena>(
      offered_.arena,
      [this](std::size_t bytes) { return stages() ? grow_alone(bytes) : grow(bytes); },
      std::move(dropped));
  DeviceEndings::MarkForServer mark;
  if (has_events()) mark = [this](const Streams& streams) { return try_mark(streams); };
  endings_ = std::make_unique<DeviceEndings>(local, *arena_, std::move(mark), peer_.release);
  return {};
}

Result<void> DeviceLane::find_rung(LocalDevice& local) {
  DeviceProbe probe(local, {offered_.to_stub, offered_.from_stub});
  rung_ = offered_.rung;
  if (offered_.probe) {
    auto chosen = probe.climb([this](const std::optional<TrialOutcome>& outcome) {
      return peer_.report_probe(offered_.name, outcome);
    });
    if (!chosen) return std::unexpected(chosen.error());
    rung_ = *chosen;
  }
  const bool events = cuda::has_events(rung_);
  if (events) {
    if (auto opened = probe.open_events(); !opened) return opened;
    to_stub_ = std::move(probe.to_stub);
    from_stub_ = std::move(probe.from_stub);
  }
  slots_ = std::make_unique<EventSlots>(events ? offered_.from_stub.size() : 0);
  return {};
}

void DeviceLane::enter(DeviceUse& use) {
  use.lane = this;
  use.local = local_;
  if (!has_events()) use.ready.reset();
}

// Memory that no message names.
Result<std::shared_ptr<Segment>> DeviceLane::grow_alone(std::size_t bytes) {
  auto chunk = cuda::Chunk::create(local_->context(), bytes, cuda::ShareMode::LegacyIpc);
  if (!chunk) return std::unexpected(chunk.error());
  return cuda::as_segment(++own_segments_, std::move(*chunk));
}

Result<std::shared_ptr<Segment>> DeviceLane::grow(std::size_t bytes) {
  auto closed = peer_.ask_for_chunk(offered_.name, bytes);
  if (!closed) return std::unexpected(closed.error());
  auto chunk = cuda::Chunk::open(local_->context(), std::move(closed->handle), closed->bytes);
  if (!chunk) return std::unexpected(chunk.error());
  return cuda::as_segment(closed->id, std::move(*chunk));
}

Result<std::byte*> DeviceLane::address(SegmentId id, std::uint64_t offset, std::uint64_t bytes) {
  return chunks_.address(local_->context(), id, offset, bytes, Clock::now() + kPatience);
}

Result<Block> DeviceLane::allocate(std::size_t bytes) {
  endings_->sweep();
  auto block = arena_->allocate((bytes + kPage - 1) / kPage * kPage);
  if (block || !cuda::gpu_word(block.error()).empty()) return block;
  return cuda::gpu_failure(cuda::GpuErrorKind::OutOfPool, block.error().message);
}

Result<cuda::EventHandle> DeviceLane::event_of(const protocol::EventSlot& ready) const {
  if (auto event = to_stub_ ? to_stub_->at(ready.slot) : std::nullopt) return *event;
  return failure(ErrorCode::Protocol, "the server names an event that it did not offer");
}

Result<cuda::StreamHandle> DeviceLane::stream_after(const DeviceUse& use) {
  // Streams that have it waited for the event before they got it.
  if (!use.ready || !use.streams.empty()) return local_->stream_after(use.streams);
  auto event = event_of(*use.ready);
  if (!event) return std::unexpected(event.error());
  auto guard = cuda::ContextGuard::enter(*local_->context());
  if (!guard) return std::unexpected(guard.error());
  if (auto waits = cuda::wait_event(local_->stream(), *event); !waits)
    return std::unexpected(waits.error());
  return local_->stream();
}

Result<cuda::StreamHandle> DeviceLane::copy(std::byte* to, const DeviceRange& from,
                                            DeviceUse& use) {
  auto stream = stream_after(use);
  if (!stream) return stream;
  auto copied = local_->copy(to, from, *stream, CopyKind::DeviceToDevice);
  if (!copied) return std::unexpected(copied.error());
  use.remember(*stream);
  return stream;
}

Result<protocol::EventSlot> DeviceLane::record_in(EventSlots::Taken taken, UsedStream stream) {
  auto event = from_stub_->at(taken.slot);
  expects(event.has_value(), "the slots are the ring's");
  if (auto recorded = local_->record(*event, stream); !recorded) {
    slots_->give_back(taken);
    return std::unexpected(recorded.error());
  }
  return protocol::EventSlot{offered_.name, taken.slot, taken.generation};
}

Result<std::optional<protocol::EventSlot>> DeviceLane::record(UsedStream stream,
                                                              EventSlots::Kept kept) {
  if (!has_events()) {
    auto done = local_->wait(stream, cuda::WaitReason::NoEvents);
    if (!done) return std::unexpected(done.error());
    return std::nullopt;
  }
  auto taken = slots_->take(Clock::now() + kPatience, peer_.read_messages);
  if (!taken) {
    return failure(ErrorCode::Unavailable,
                   "gpu_events: all " + std::to_string(slots_->count()) +
                       " events are under way, and the server has not seen one complete for " +
                       std::to_string(kPatience.count()) + " s");
  }
  auto event = record_in(*taken, stream);
  if (!event) return std::unexpected(event.error());
  slots_->keep(*taken, std::move(kept));
  return *event;
}

std::optional<std::vector<protocol::EventSlot>> DeviceLane::try_mark(const Streams& streams) {
  std::vector<protocol::EventSlot> events;
  for (UsedStream stream : streams) {
    auto taken = slots_->take();
    auto event = taken ? record_in(*taken, stream)
                       : failure(ErrorCode::Unavailable, "no event is free just now");
    if (!event) {
      for (const auto& one : events) slots_->give_back({one.slot, one.generation});
      return std::nullopt;
    }
    events.push_back(*event);
  }
  return events;
}

bool DeviceLane::seen(const protocol::EventSlot& event) {
  const auto kept = slots_ ? slots_->seen(event.slot, event.generation) : std::nullopt;
  return kept.has_value();
}

}  // namespace tensorferry::stub
