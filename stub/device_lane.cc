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
  auto to_stub = cuda::PeerEvents::open(local.context(), offered_.to_stub);
  if (!to_stub) return std::unexpected(to_stub.error());
  auto from_stub = cuda::PeerEvents::open(local.context(), offered_.from_stub);
  if (!from_stub) return std::unexpected(from_stub.error());
  local_ = &local;
  to_stub_ = std::move(*to_stub);
  from_stub_ = std::move(*from_stub);
  slots_ = std::make_unique<EventSlots>(offered_.from_stub.size());
  arena_ = std::make_unique<Arena>(
      offered_.arena, [this](std::size_t bytes) { return grow(bytes); }, peer_.say_dropped);
  endings_ = std::make_unique<DeviceEndings>(
      local, *arena_, [this](const Streams& streams) { return try_mark(streams); }, peer_.release);
  return {};
}

Result<std::shared_ptr<Segment>> DeviceLane::grow(std::size_t bytes) {
  auto closed = peer_.ask_for_chunk(offered_.name, bytes);
  if (!closed) return std::unexpected(closed.error());
  auto chunk = cuda::Chunk::open(local_->context(), std::move(closed->handle), closed->bytes);
  if (!chunk) return std::unexpected(chunk.error());
  auto* base = reinterpret_cast<std::byte*>((*chunk)->base());
  return Segment::adopt(closed->id, base, closed->bytes, std::move(*chunk));
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
  if (auto event = to_stub_->at(ready.slot)) return *event;
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
  if (slots_->count() == 0) {
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
    if (slots_->count() == 0) {
      if (!local_->wait(stream, cuda::WaitReason::NoEvents)) return std::nullopt;
      continue;
    }
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
