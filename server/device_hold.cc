#include "device_hold.h"

#include <algorithm>
#include <utility>

namespace tensorferry::server {

DeviceHold::~DeviceHold() {
  if (streams_.empty() || !home_.is_here()) return;
  gpu_->when_done(streams_, [memory = std::move(memory_)](Result<void>) {});
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
