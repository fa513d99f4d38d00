#include <tensorferry/cuda/pinned_region.h>

#include "driver_call.h"
#include "memory_error.h"

namespace tensorferry::cuda {

Result<std::unique_ptr<PinnedRegion>> PinnedRegion::create(ContextPtr context,
                                                           std::span<std::byte> memory) {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  const int code =
      raw_call<"cuMemHostRegister_v2">(static_cast<void*>(memory.data()), memory.size(),
                                       abi::kHostRegisterPortable | abi::kHostRegisterDeviceMap);
  if (code != abi::kSuccess) {
    auto failed = memory_failure("cuMemHostRegister", code, memory.size(), *context);
    if (code == abi::kHostMemoryAlreadyRegistered) failed.error().code = ErrorCode::AlreadyExists;
    return failed;
  }
  return std::unique_ptr<PinnedRegion>(new PinnedRegion(std::move(context), memory));
}

PinnedRegion::~PinnedRegion() {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context_);
  (void)raw_call<"cuMemHostUnregister">(static_cast<void*>(memory_.data()));
}

}  // namespace tensorferry::cuda
