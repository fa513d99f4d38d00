#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/device_side.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/transport/fork_guard.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "device_place.h"

namespace tensorferry::cuda {
namespace {

// The rungs on which both sides map the same memory.
Result<Plan> plan_for(const Device& device) {
  auto asked = gpu_transport_from_environment();
  if (!asked) return std::unexpected(asked.error());
  Plan plan = plan_rungs(device, *asked);
  if (!plan.attempts.empty()) return plan;
  return failure(ErrorCode::Unsupported, "memory of GPU " + to_string(device.uuid) +
                                             " can't be shared between processes: " + plan.reason);
}

class Gpus final : public DeviceSide {
 public:
  Result<std::shared_ptr<DevicePlace>> open(int ordinal) override {
    return as_place(open_gpu(device_by_ordinal(ordinal)));
  }
  Result<std::shared_ptr<DevicePlace>> open(std::string_view uuid) override {
    Uuid name;
    expects(uuid.size() == name.bytes.size(), "a device's name is a UUID");
    std::memcpy(name.bytes.data(), uuid.data(), name.bytes.size());
    return as_place(open_gpu(device_by_uuid(name)));
  }
  Result<std::shared_ptr<GpuPlace>> open_gpu(const Result<Device>& device) {
    if (!device) return std::unexpected(device.error());
    std::scoped_lock lock(mutex_);
    if (auto it = opened_.find(device->ordinal); it != opened_.end()) return it->second;
    auto plan = plan_for(*device);
    if (!plan) return std::unexpected(plan.error());
    if (!poller_) poller_ = std::make_shared<CompletionPoller>();
    auto parts = DeviceQueue::make(*device, poller_);
    if (!parts) return std::unexpected(parts.error());
    auto place = std::make_shared<GpuPlace>(plan->attempts.front(), std::move(*parts));
    opened_.emplace(device->ordinal, place);
    return place;
  }

 private:
  static Result<std::shared_ptr<DevicePlace>> as_place(Result<std::shared_ptr<GpuPlace>> gpu) {
    if (!gpu) return std::unexpected(gpu.error());
    return std::move(*gpu);
  }

  std::mutex mutex_;
  std::shared_ptr<CompletionPoller> poller_;
  std::map<int, std::shared_ptr<GpuPlace>> opened_;
};

// Held by its users; a forked child has its own.
std::shared_ptr<Gpus> gpus() {
  static std::mutex mutex;
  static std::weak_ptr<Gpus> shared;
  static std::uint64_t generation = 0;
  std::scoped_lock lock(mutex);
  auto current = generation == fork_generation() ? shared.lock() : nullptr;
  if (!current) {
    current = std::make_shared<Gpus>();
    shared = current;
    generation = fork_generation();
  }
  return current;
}

Result<std::shared_ptr<GpuPlace>> place_of(const SharedBytes& memory, std::size_t bytes) {
  if (memory.is_cpu() || memory.bytes().size() != bytes) {
    return failure(ErrorCode::InvalidArgument,
                   "a copy of " + std::to_string(bytes) + " bytes to or from " +
                       std::to_string(memory.bytes().size()) +
                       (memory.is_cpu() ? " that are not on a device" : " on a device"));
  }
  return gpus()->open_gpu(device_by_ordinal(memory.device().id));
}

// What we put on our stream from now on comes after its users.
Result<void> follow_users(GpuPlace& place, const SharedBytes& memory) {
  auto ordered = place.stream_after(memory.streams());
  return ordered ? Result<void>{} : std::unexpected(ordered.error());
}

}  // namespace

std::shared_ptr<DeviceSide> device_side() { return gpus(); }

Result<void> copy_from_host(SharedBytes& memory, std::span<const std::byte> from) {
  auto place = place_of(memory, from.size());
  if (!place) return std::unexpected(place.error());
  if (auto followed = follow_users(**place, memory); !followed) return followed;
  auto copied = (*place)->put_to_device(device_ptr(memory.bytes().data()), from);
  if (copied) memory.use_on((*place)->stream());
  return copied;
}

Result<void> copy_in(SharedBytes& memory, const ForeignMemory& from) {
  auto place = place_of(memory, from.bytes);
  if (!place) return std::unexpected(place.error());
  auto used = (*place)->copy_in(device_ptr(memory.bytes().data()), from);
  if (!used) return std::unexpected(used.error());
  memory.use_on(*used);
  return {};
}

Result<void> copy_to_host(std::span<std::byte> to, SharedBytes& memory) {
  auto place = place_of(memory, to.size());
  if (!place) return std::unexpected(place.error());
  if (auto followed = follow_users(**place, memory); !followed) return followed;
  return (*place)->copy_to_host(to, memory.bytes().data());
}

Result<StreamHandle> stream_on(int ordinal) {
  auto place = gpus()->open_gpu(device_by_ordinal(ordinal));
  if (!place) return std::unexpected(place.error());
  return (*place)->stream();
}

Result<void> finish(int ordinal) {
  auto place = gpus()->open_gpu(device_by_ordinal(ordinal));
  if (!place) return std::unexpected(place.error());
  return (*place)->DeviceQueue::wait(WaitReason::NoStream);
}

}  // namespace tensorferry::cuda
