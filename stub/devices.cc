#include "devices.h"

#include <tensorferry/cuda/gpu_error.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

namespace tensorferry::stub {
namespace {

constexpr std::chrono::seconds kPatience{30};

Result<cuda::IpcHandle> read_handle(std::string_view bytes) {
  cuda::IpcHandle handle;
  if (bytes.size() != handle.size())
    return failure(ErrorCode::Protocol, "a handle has " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(handle.data(), bytes.data(), handle.size());
  return handle;
}

Result<std::vector<cuda::IpcHandle>> read_handles(std::span<const std::string_view> all) {
  std::vector<cuda::IpcHandle> handles;
  for (std::string_view bytes : all) {
    auto handle = read_handle(bytes);
    if (!handle) return std::unexpected(handle.error());
    handles.push_back(*handle);
  }
  return handles;
}

std::string visible_devices() {
  const char* chosen = std::getenv("CUDA_VISIBLE_DEVICES");
  return chosen ? "CUDA_VISIBLE_DEVICES=" + std::string(chosen) : "CUDA_VISIBLE_DEVICES is not set";
}

}  // namespace

Result<ClosedChunk> closed_chunk(const protocol::DeviceSegment& segment, UniqueFd fd) {
  if (segment.handle.empty()) {
    if (!fd) {
      return failure(ErrorCode::Protocol, "device segment " + std::to_string(segment.segment) +
                                              " came without its descriptor");
    }
    return ClosedChunk{segment.segment, std::move(fd), segment.bytes};
  }
  auto handle = read_handle(segment.handle);
  if (!handle) return std::unexpected(handle.error());
  return ClosedChunk{segment.segment, *handle, segment.bytes};
}

Result<void> Devices::on_offer(const protocol::DeviceOffer& offer) {
  OfferedDevice device;
  device.name = offer.device;
  if (offer.device.kind != DeviceKind::Cuda || offer.uuid.size() != protocol::kUuidBytes)
    return failure(ErrorCode::Protocol, "a device was offered that is no GPU");
  std::memcpy(device.uuid.bytes.data(), offer.uuid.data(), device.uuid.bytes.size());
  for (auto [to, from] :
       {std::pair(&device.to_stub, offer.to_stub), std::pair(&device.from_stub, offer.from_stub)}) {
    auto handles = read_handles(from);
    if (!handles) return std::unexpected(handles.error());
    *to = std::move(*handles);
  }
  if (!cuda::is_rung(offer.rung))
    return failure(ErrorCode::Protocol, "a device was offered in an unknown way");
  device.rung = static_cast<cuda::Rung>(offer.rung);
  device.probe = offer.probe;
  device.arena = {offer.arena_initial_bytes, offer.arena_growth_bytes, offer.arena_max_bytes};
  std::scoped_lock lock(mutex_);
  const auto [at, fresh] = lanes_.try_emplace(offer.device.id);
  if (!fresh) return failure(ErrorCode::Protocol, "a device was offered twice");
  at->second = std::make_unique<DeviceLane>(std::move(device), peer_);
  offer_came_.notify_all();
  return {};
}

Result<void> Devices::on_segment(const protocol::DeviceSegment& segment, UniqueFd fd) {
  auto chunk = closed_chunk(segment, std::move(fd));
  if (!chunk) return std::unexpected(chunk.error());
  std::scoped_lock lock(mutex_);
  auto lane = lanes_.find(segment.device.id);
  if (lane == lanes_.end())
    return failure(ErrorCode::Protocol, "a segment came of a device that was not offered");
  lane->second->chunks().add(std::move(*chunk));
  return {};
}

void Devices::on_dropped(SegmentId segment) {
  std::scoped_lock lock(mutex_);
  for (auto& [number, lane] : lanes_) {
    if (lane->chunks().drop(segment)) return;
  }
}

Result<void> Devices::seen(std::span<const protocol::EventSlot> events) {
  for (const protocol::EventSlot& event : events) {
    std::unique_lock lock(mutex_);
    auto at = lanes_.find(event.device.id);
    DeviceLane* lane = at == lanes_.end() ? nullptr : at->second.get();
    lock.unlock();
    if (!lane || !lane->seen(event))
      return failure(ErrorCode::Protocol, "the server gives an event back that it doesn't have");
  }
  return {};
}

Result<LocalDevice*> Devices::local(int ordinal) {
  std::scoped_lock lock(open_mutex_);
  auto& known = local_[ordinal];
  if (!known) {
    auto device = cuda::device_by_ordinal(ordinal);
    if (!device) return std::unexpected(device.error());
    auto opened = LocalDevice::open(*device);
    if (!opened) return std::unexpected(opened.error());
    known = std::move(*opened);
  }
  return known.get();
}

Result<DeviceLane*> Devices::offered(Device name) {
  std::unique_lock lock(mutex_);
  auto is_here = [&] { return lanes_.contains(name.id); };
  if (!is_here() && !offer_came_.wait_for(lock, kPatience, is_here)) {
    return failure(ErrorCode::Protocol,
                   "the server did not say what device " + std::to_string(name.id) + " is");
  }
  return lanes_.at(name.id).get();
}

Result<cuda::Device> Devices::visible(const DeviceLane& lane) {
  auto device = cuda::device_by_uuid(lane.uuid());
  if (device || !cuda::is_gpu_error(device.error(), cuda::GpuErrorKind::NoDevice)) return device;
  return cuda::gpu_failure(cuda::GpuErrorKind::NoDevice,
                           "the tensor lies on " + to_string(lane.uuid()) +
                               ", which this stub does not see (" + visible_devices() + ")");
}

Result<int> Devices::ordinal_of(Device name) {
  auto lane = offered(name);
  if (!lane) return std::unexpected(lane.error());
  if ((*lane)->is_open()) return (*lane)->local().ordinal();
  auto device = visible(**lane);
  if (!device) return std::unexpected(device.error());
  return device->ordinal;
}

Result<DeviceLane*> Devices::lane(Device name) {
  auto lane = offered(name);
  if (!lane || (*lane)->is_open()) return lane;
  auto ordinal = ordinal_of(name);
  if (!ordinal) return std::unexpected(ordinal.error());
  auto device = local(*ordinal);
  if (!device) return std::unexpected(device.error());
  if (auto opened = (*lane)->open(**device); !opened) return std::unexpected(opened.error());
  if (!(*lane)->has_events()) sweeps_.store(true);
  return lane;
}

DeviceLane* Devices::find(const cuda::Uuid& uuid) {
  std::scoped_lock lock(mutex_);
  for (const auto& [number, lane] : lanes_) {
    if (lane->uuid() == uuid) return lane.get();
  }
  return nullptr;
}

Result<DeviceLane*> Devices::lane_at(int ordinal) {
  for (DeviceLane* lane : open_lanes()) {
    if (lane->local().ordinal() == ordinal) return lane;
  }
  auto device = cuda::device_by_ordinal(ordinal);
  if (!device) return std::unexpected(device.error());
  std::scoped_lock lock(ask_mutex_);
  if (!find(device->uuid) && !denied_.contains(device->uuid)) {
    if (!peer_.ask_for_device(device->uuid)) denied_.insert(device->uuid);
  }
  DeviceLane* offered = find(device->uuid);
  if (!offered) return nullptr;
  return lane(offered->name());
}

std::vector<DeviceLane*> Devices::open_lanes() {
  std::scoped_lock lock(mutex_);
  std::vector<DeviceLane*> open;
  for (const auto& [number, lane] : lanes_) {
    if (lane->is_open()) open.push_back(lane.get());
  }
  return open;
}

DeviceLane* Devices::owner_of(const void* address) {
  for (DeviceLane* lane : open_lanes()) {
    if (lane->arena().owns(address)) return lane;
  }
  return nullptr;
}

bool Devices::sweep() {
  if (!sweeps_.load(std::memory_order_relaxed)) return false;
  bool left = false;
  for (DeviceLane* lane : open_lanes()) left |= !lane->has_events() && lane->endings().sweep();
  return left;
}

void Devices::trim() {
  for (DeviceLane* lane : open_lanes()) {
    lane->endings().sweep();
    lane->arena().trim();
  }
}

}  // namespace tensorferry::stub
