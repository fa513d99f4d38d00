#include "device_lane.h"

#include <string>
#include <string_view>

namespace tensorferry::server {
namespace {

// Messages with device tensors that a stub may hold at a time, and events that it may have under
// way, before somebody waits on a thread.
constexpr std::size_t kEvents = 256;

std::vector<std::string_view> views(const std::vector<cuda::IpcHandle>& handles) {
  std::vector<std::string_view> result;
  result.reserve(handles.size());
  for (const cuda::IpcHandle& handle : handles) result.push_back(cuda::as_text(handle));
  return result;
}

}  // namespace

DeviceLane::DeviceLane(GpuArena arena, Rings rings, cuda::RungLadder ladder)
    : arena_(std::move(arena)),
      rings_(std::move(rings)),
      probe_(*arena_.gpu, *arena_.sharing, std::move(ladder), rings_.to_stub.get(),
             rings_.from_stub.get()),
      rung_(probe_.attempt() ? probe_.attempt()->rung : probe_.choice().rung),
      recorded_(rings_.from_stub ? kEvents : 0),
      holders_(kEvents) {}

Result<DeviceLane::Rings> DeviceLane::make_rings(const Gpu& gpu) {
  Rings rings;
  auto to_stub = cuda::EventRing::create(gpu.context(), kEvents);
  if (!to_stub) return std::unexpected(to_stub.error());
  auto from_stub = cuda::EventRing::create(gpu.context(), kEvents);
  if (!from_stub) return std::unexpected(from_stub.error());
  auto ours = (*to_stub)->export_handles();
  if (!ours) return std::unexpected(ours.error());
  auto theirs = (*from_stub)->export_handles();
  if (!theirs) return std::unexpected(theirs.error());
  return Rings{std::move(*to_stub), std::move(*from_stub), std::move(*ours), std::move(*theirs)};
}

Result<std::shared_ptr<DeviceLane>> DeviceLane::open(GpuArena arena) {
  const GpuSharing& sharing = *arena.sharing;
  if (sharing.best().rung == cuda::Rung::NoGpu)
    return failure(ErrorCode::Unsupported, "no tensors of GPUs cross: " + sharing.best().reason);
  cuda::RungLadder ladder(sharing.plan());
  Rings rings;
  while (const cuda::Attempt* attempt = ladder.next()) {
    if (!attempt->events) break;
    auto made = make_rings(*arena.gpu);
    if (made) {
      rings = std::move(*made);
      break;
    }
    ladder.failed(made.error());
  }
  if (!rings.to_stub) {  // for ourselves alone
    auto own = cuda::EventRing::create(arena.gpu->context(), kEvents, cuda::EventUse::OwnProcess);
    if (!own) return std::unexpected(own.error());
    rings.to_stub = std::move(*own);
  }
  return std::shared_ptr<DeviceLane>(
      new DeviceLane(std::move(arena), std::move(rings), std::move(ladder)));
}

Result<void> DeviceLane::offer(ControlSocket& socket, const ArenaOptions& stub_arena,
                               const Deadline& deadline) const {
  const auto to_stub = views(rings_.to_stub_handles), from_stub = views(rings_.from_stub_handles);
  const cuda::Uuid& uuid = gpu().device().uuid;
  protocol::DeviceOffer offer;
  offer.device = gpu().name();
  offer.uuid = {reinterpret_cast<const char*>(uuid.bytes.data()), uuid.bytes.size()};
  offer.to_stub = to_stub;
  offer.from_stub = from_stub;
  offer.arena_initial_bytes = stub_arena.initial_bytes;
  offer.arena_growth_bytes = stub_arena.growth_bytes;
  offer.arena_max_bytes = stub_arena.max_bytes;
  offer.rung = static_cast<std::uint8_t>(rung());
  offer.probe = shares_device_memory(rung()) && sharing().probe_chunk() != nullptr;
  return socket.send(offer, -1, deadline);
}

Result<void> DeviceLane::send_step(ControlSocket& socket, DeviceProbe::Step step,
                                   std::uint64_t reply_to, const Deadline& deadline) const {
  protocol::ProbeStep message;
  message.reply_to = reply_to;
  message.rung = static_cast<std::uint8_t>(step.rung);
  message.chosen = !step.trial;
  if (!step.trial) return socket.send(message, -1, deadline);
  message.slot = step.trial->slot;
  message.offset = step.trial->offset;
  message.bytes = step.trial->chunk_bytes;
  if (auto* fd = std::get_if<UniqueFd>(&step.trial->chunk))
    return socket.send(message, fd->get(), deadline);
  message.handle = cuda::as_text(std::get<cuda::IpcHandle>(step.trial->chunk));
  return socket.send(message, -1, deadline);
}

Result<void> DeviceLane::announce(ControlSocket& socket, const Segment& segment,
                                  protocol::SegmentRole role, std::uint64_t reply_to,
                                  const Deadline& deadline) const {
  auto handle = chunk_of(segment).export_handle();
  if (!handle) return std::unexpected(handle.error());
  protocol::DeviceSegment message{segment.id(), role, gpu().name(), segment.bytes(), reply_to, {}};
  if (auto* fd = std::get_if<UniqueFd>(&*handle)) return socket.send(message, fd->get(), deadline);
  message.handle = cuda::as_text(std::get<cuda::IpcHandle>(*handle));
  return socket.send(message, -1, deadline);
}

Result<std::optional<protocol::EventSlot>> DeviceLane::record_ready() {
  auto slot = rings_.to_stub->take();
  if (!slot) return std::nullopt;
  auto recorded = gpu().enqueue(
      [&](cuda::StreamHandle ours) { return cuda::record(*rings_.to_stub->event(*slot), ours); });
  if (!recorded) {
    rings_.to_stub->give_back(*slot);
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
  if (--holders_[ready.slot] == 0) rings_.to_stub->give_back({ready.slot, ready.generation});
}

cuda::EventHandle DeviceLane::our_event(const protocol::EventSlot& ready) const {
  return *rings_.to_stub->event({ready.slot, ready.generation});
}

cuda::EventHandle DeviceLane::stubs_event(const protocol::EventSlot& recorded) const {
  return rings_.from_stub->at(recorded.slot);
}

}  // namespace tensorferry::server
