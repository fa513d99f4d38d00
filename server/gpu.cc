#include "gpu.h"

namespace tensorferry::server {

Result<std::shared_ptr<Gpu>> Gpu::open(int ordinal,
                                       std::shared_ptr<cuda::CompletionPoller> poller) {
  auto device = cuda::device_by_ordinal(ordinal);
  if (!device) return std::unexpected(device.error());
  auto parts = cuda::DeviceQueue::make(*device, std::move(poller));
  if (!parts) return std::unexpected(parts.error());
  return std::shared_ptr<Gpu>(new Gpu(std::move(*parts)));
}

Result<std::shared_ptr<Gpu>> Gpus::open(int ordinal) {
  std::scoped_lock lock(mutex_);
  if (auto it = opened_.find(ordinal); it != opened_.end()) return it->second;
  if (!poller_) poller_ = std::make_shared<cuda::CompletionPoller>();
  auto gpu = Gpu::open(ordinal, poller_);
  if (!gpu) return gpu;
  opened_.emplace(ordinal, *gpu);
  return gpu;
}

}  // namespace tensorferry::server
