#include <tensorferry/cuda/context.h>
#include <tensorferry/transport/counters.h>

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "driver_call.h"

namespace tensorferry::cuda {
namespace {

// What this process holds, by ordinal. Never destroyed: holders may outlive static objects.
struct Held {
  std::mutex mutex;
  std::map<int, std::weak_ptr<const PrimaryContext>> by_ordinal;
};
Held& held() {
  static auto* one = new Held;
  return *one;
}

}  // namespace

Result<bool> primary_context_active(const Device& device) {
  unsigned flags = 0;
  int active = 0;
  if (auto done = call<"cuDevicePrimaryCtxGetState">(device.ordinal, &flags, &active); !done)
    return std::unexpected(done.error());
  return active != 0;
}

std::optional<int> device_in_use() noexcept {
  if (forked_after_cuda()) return std::nullopt;
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (!library) return std::nullopt;
  auto* count_devices = reinterpret_cast<int (*)(int*)>(::dlsym(library, "cuDeviceGetCount"));
  auto* state = reinterpret_cast<int (*)(int, unsigned*, int*)>(
      ::dlsym(library, "cuDevicePrimaryCtxGetState"));
  int devices = 0;
  const bool usable = count_devices && state && count_devices(&devices) == abi::kSuccess;
  ::dlclose(library);
  for (int ordinal = 0; usable && ordinal < devices; ++ordinal) {
    unsigned flags = 0;
    int active = 0;
    if (state(ordinal, &flags, &active) == abi::kSuccess && active) return ordinal;
  }
  return std::nullopt;
}

Result<ContextPtr> PrimaryContext::retain(const Device& device) {
  // In a forked child the mutex may be somebody's who is gone.
  if (forked_after_cuda()) return driver_failure("cuDevicePrimaryCtxRetain", abi::kNotInitialized);
  Held& all = held();
  std::scoped_lock lock(all.mutex);
  auto& known = all.by_ordinal[device.ordinal];
  if (auto context = known.lock()) return context;
  RelaxedCapture relaxed;
  ContextHandle handle = nullptr;
  if (auto done = call<"cuDevicePrimaryCtxRetain">(&handle, device.ordinal); !done)
    return std::unexpected(done.error());
  ContextPtr context(new PrimaryContext(device, handle));
  Counters::of_process().add("cuda_contexts").add();
  known = context;
  return context;
}

PrimaryContext::~PrimaryContext() {
  (void)raw_call<"cuDevicePrimaryCtxRelease_v2">(device_.ordinal);
}

Result<ContextGuard> ContextGuard::enter(const PrimaryContext& context) {
  if (auto done = call<"cuCtxPushCurrent_v2">(context.get()); !done)
    return std::unexpected(done.error());
  return ContextGuard();
}

ContextGuard::~ContextGuard() {
  ContextHandle ours = nullptr;
  if (entered_) (void)raw_call<"cuCtxPopCurrent_v2">(&ours);
}

RelaxedCapture::RelaxedCapture() noexcept : before_(abi::kCaptureModeRelaxed) {
  if (raw_call<"cuThreadExchangeStreamCaptureMode">(&before_) != abi::kSuccess) before_ = -1;
}

RelaxedCapture::~RelaxedCapture() {
  if (before_ >= 0) (void)raw_call<"cuThreadExchangeStreamCaptureMode">(&before_);
}

}  // namespace tensorferry::cuda
