#include <dlfcn.h>
#include <sys/mman.h>
#include <tensorferry/cuda/pinned_region.h>

#include "crossing.h"

namespace tensorferry::gpu_probe {
namespace {

// What NVML's function says; nullptr without one.
template <class Signature>
Signature* nvml_function(const char* name) {
  void* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  return library ? reinterpret_cast<Signature*>(::dlsym(library, name)) : nullptr;
}

struct ConfidentialState {  // nvmlConfComputeSystemState_t
  unsigned environment = 0, feature = 0, developer_tools = 0;
};

std::string confidential_state() {
  auto* init = nvml_function<int()>("nvmlInit_v2");
  auto* get = nvml_function<int(ConfidentialState*)>("nvmlSystemGetConfComputeState");
  if (!init || !get) return "unknown (NVML doesn't say)";
  if (int code = init()) return "unknown (nvmlInit_v2: " + std::to_string(code) + ")";
  ConfidentialState state;
  if (int code = get(&state)) return "off or unknown (NVML: " + std::to_string(code) + ")";
  return state.feature != 0 ? "on" : "off";
}

// Only the second of the driver's functions for it says a MIG instance's own UUID.
Result<bool> is_mig(const cuda::Device& device) {
  auto* plain = driver_function<int(cuda::Uuid*, int)>("cuDeviceGetUuid");
  cuda::Uuid uuid;
  if (!plain) return failure(ErrorCode::Unsupported, "the driver lacks cuDeviceGetUuid");
  if (int code = plain(&uuid, device.ordinal)) return cuda::driver_failure("cuDeviceGetUuid", code);
  return uuid != device.uuid;
}

}  // namespace

Result<Answer> import_in_another_pid_namespace() {
  auto helper = Helper::start("map", {.environment = {}, .new_pid_namespace = true});
  if (!helper) return std::unexpected(helper.error());
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto crossing = cross(*gpu, *helper);
  const auto failed_at = [&](const char* what) {
    return !crossing && crossing.error().message.find(what) != std::string::npos;
  };
  if (failed_at("unshare") || failed_at("mount"))
    return not_tried("no PID namespace can be made here: " + crossing.error().message);
  if (!crossing) return std::unexpected(crossing.error());
  return answer_of(*crossing);
}

Result<Answer> sharing_in_mig() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto mig = is_mig(gpu->context()->device());
  if (!mig) return std::unexpected(mig.error());
  if (!*mig) return not_tried("the device is no MIG instance");
  auto helper = Helper::start("map");
  if (!helper) return std::unexpected(helper.error());
  auto crossing = cross(*gpu, *helper);
  if (!crossing) return std::unexpected(crossing.error());
  Answer answer = answer_of(*crossing);
  answer.detail += "; two processes on the same instance";
  return answer;
}

Result<Answer> confidential_computing() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  int claimed = 0;
  const int asked = cuda::raw_call<"cuDeviceGetAttribute">(
      &claimed, cuda::abi::kHostRegisterSupported, gpu->context()->device().ordinal);
  void* pages = ::mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto region =
      cuda::PinnedRegion::create(gpu->context(), {static_cast<std::byte*>(pages), kBlock});
  auto helper = Helper::start("map");
  if (!helper) return std::unexpected(helper.error());
  auto crossing = cross(*gpu, *helper);
  if (!crossing) return std::unexpected(crossing.error());
  return Answer{"confidential computing " + confidential_state(),
                "attribute 99 " + (asked == 0 ? std::to_string(claimed) : name_of(asked)) +
                    ", registering " + (region ? "works" : region.error().message) + "; " +
                    answer_of(*crossing).text};
}

}  // namespace tensorferry::gpu_probe
