#include "device_lane.h"

#include <string>
#include <string_view>

namespace tensorferry::server {
namespace {

// Messages with device tensors that a stub may hold at a time, and events that it may have under
// way, before somebody waits on a thread.
constexpr std::size_t kEvents = 256;

std::string_view view(const cuda::IpcHandle& handle) {
  return {reinterpret_cast<const char*>(handle.data()), handle.size()};
}

std::vector<std::string_view> views(const std::vector<cuda::IpcHandle>& handles) {
  std::vector<std::string_view> result;
  result.reserve(handles.size());
  for (const cuda::IpcHandle& handle : handles) result.push_back(view(handle));
  return result;
}

}  // namespace

DeviceLane::DeviceLane(GpuArena arena, std::unique_ptr<cuda::EventRing> to_stub,
                       std::unique_ptr<cuda::EventRing> from_stub)
    : arena_(std::move(arena)),
      to_stub_(std::move(to_stub)),
      from_stub_(std::move(from_stub)),
      recorded_(kEvents),
      holders_(kEvents) {}

Result<std::shared_ptr<DeviceLane>> DeviceLane::open(GpuArena arena) {
  auto to_stub = cuda::EventRing::create(arena.gpu->context(), kEvents);
  if (!to_stub) return std::unexpected(to_stub.error());
  auto from_stub = cuda::EventRing::create(arena.gpu->context(), kEvents);
  if (!from_stub) return std::unexpected(from_stub.error());
  return std::shared_ptr<DeviceLane>(
      new DeviceLane(std::move(arena), std::move(*to_stub), std::move(*from_stub)));
}

Result<void> DeviceLane::offer(ControlSocket& socket, const ArenaOptions& stub_arena,
                               const Deadline& deadline) const {
  auto ours = to_stub_->export_handles();
  if (!ours) return std::unexpected(ours.error());
  auto theirs = from_stub_->export_handles();
  if (!theirs) return std::unexpected(theirs.error());
  const auto to_stub = views(*ours), from_stub = views(*theirs);
  const cuda::Uuid& uuid = gpu().device().uuid;
  protocol::DeviceOffer offer;
  offer.device = gpu().name();
  offer.uuid = {reinterpret_cast<const char*>(uuid.bytes.data()), uuid.bytes.size()};
  offer.to_stub = to_stub;
  offer.from_stub = from_stub;
  offer.arena_initial_bytes = stub_arena.initial_bytes;
  offer.arena_growth_bytes = stub_arena.growth_bytes;
  offer.arena_max_bytes = stub_arena.max_bytes;
  return socket.send(offer, -1, deadline);
}

Result<void> DeviceLane::announce(ControlSocket& socket, const Segment& segment,
                                  protocol::SegmentRole role, std::uint64_t reply_to,
                                  const Deadline& deadline) const {
  auto handle = chunk_of(segment).export_handle();
  if (!handle) return std::unexpected(handle.error());
  protocol::DeviceSegment message{segment.id(), role, gpu().name(), segment.bytes(), reply_to, {}};
  if (auto* fd = std::get_if<UniqueFd>(&*handle)) return socket.send(message, fd->get(), deadline);
  message.handle = view(std::get<cuda::IpcHandle>(*handle));
  return socket.send(message, -1, deadline);
}

Result<std::optional<protocol::EventSlot>> DeviceLane::record_ready() {
  auto slot = to_stub_->take();
  if (!slot) return std::nullopt;
  auto recorded = gpu().enqueue(
      [&](cuda::StreamHandle ours) { return cuda::record(*to_stub_->event(*slot), ours); });
  if (!recorded) {
    to_stub_->give_back(*slot);
    return std::unexpected(recorded.error());
  }
  std::scoped_lock lock(mutex_);
  holders_[slot->index] = 1;
  return protocol::EventSlot{gpu().name(), slot->index, slot->generation};
}

void DeviceLane::hold(const protocol::EventSlot& ready) {
  std::scoped_lock lock(mutex_);
  ++holders_[ready.slot];
}

void DeviceLane::drop(const protocol::EventSlot& ready) {
  std::scoped_lock lock(mutex_);
  if (--holders_[ready.slot] == 0) to_stub_->give_back({ready.slot, ready.generation});
}

cuda::EventHandle DeviceLane::our_event(const protocol::EventSlot& ready) const {
  return *to_stub_->event({ready.slot, ready.generation});
}

cuda::EventHandle DeviceLane::stubs_event(const protocol::EventSlot& recorded) const {
  return from_stub_->at(recorded.slot);
}

}  // namespace tensorferry::server
