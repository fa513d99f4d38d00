#include "gpu.h"

namespace tensorferry::server {
namespace {

// The rungs that both sides map the same memory on, with events.
Result<cuda::Plan> plan_for(const cuda::Device& device) {
  auto asked = cuda::gpu_transport_from_environment();
  if (!asked) return std::unexpected(asked.error());
  cuda::Plan plan = cuda::plan_rungs(device, *asked);
  std::erase_if(plan.attempts, [](const cuda::Attempt& attempt) { return !attempt.events; });
  if (plan.attempts.empty()) {
    return failure(ErrorCode::Unsupported,
                   "tensors of GPU " + to_string(device.uuid) +
                       " can't be shared with stubs: " + plan.reason +
                       "; let inputs come to the CPU (FORCE_CPU_ONLY_INPUT_TENSORS \"yes\")");
  }
  return plan;
}

}  // namespace

Gpu::Gpu(const cuda::Plan& plan, Parts parts)
    : cuda::DeviceQueue(std::move(parts)),
      share_mode_(plan.attempts.front().mode),
      transport_{plan.attempts.front().rung, plan.reason} {}

Result<std::shared_ptr<Gpu>> Gpu::open(int ordinal,
                                       std::shared_ptr<cuda::CompletionPoller> poller) {
  auto device = cuda::device_by_ordinal(ordinal);
  if (!device) return std::unexpected(device.error());
  auto plan = plan_for(*device);
  if (!plan) return std::unexpected(plan.error());
  auto parts = cuda::DeviceQueue::make(*device, std::move(poller));
  if (!parts) return std::unexpected(parts.error());
  return std::shared_ptr<Gpu>(new Gpu(*plan, std::move(*parts)));
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
