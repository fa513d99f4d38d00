#include "device_hold.h"

#include <tensorferry/transport/protocol.h>

#include <algorithm>
#include <utility>

namespace tensorferry::server {

DeviceHold::~DeviceHold() {
  if (streams_.empty() || !home_.is_here()) return;
  gpu_->when_done(streams_, [memory = std::move(memory_)](Result<void>) {});
}

Result<Buffer> DeviceHold::allocate(const GpuArena& arena, std::size_t bytes) {
  if (bytes == 0) return Buffer::shared(nullptr, 0, nullptr, arena.gpu->name());
  auto buffer = arena.blocks->allocate(std::max(bytes, protocol::kInlineBelowBytes));
  return buffer ? wrap(arena.gpu, *buffer, bytes) : std::move(buffer);
}

Buffer DeviceHold::wrap(std::shared_ptr<Gpu> gpu, const Buffer& buffer, std::size_t bytes) {
  auto* data = const_cast<std::byte*>(buffer.bytes().data());
  const Device device = gpu->name();
  return Buffer::shared(data, bytes, std::make_shared<DeviceHold>(std::move(gpu), buffer.holder()),
                        device);
}

void DeviceHold::use_on(cuda::StreamHandle stream) {
  std::scoped_lock lock(mutex_);
  if (std::ranges::find(streams_, stream) == streams_.end()) streams_.push_back(stream);
}

Result<void> DeviceHold::follow_users() {
  std::vector<cuda::StreamHandle> streams;
  {
    std::scoped_lock lock(mutex_);
    streams.swap(streams_);
  }
  for (cuda::StreamHandle stream : streams) {
    if (auto followed = gpu_->follow(stream); !followed) return followed;
  }
  return {};
}

}  // namespace tensorferry::server
