// Primary contexts: one for each device and process, shared by all that use the runtime.
#include "api.h"
#include "memory.h"

using namespace fakecuda;

namespace {

// INVALID_DEVICE, or the device.
CUresult find_device(Call& call, CUdevice ordinal, Device*& device) {
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  device = &call.driver.devices[static_cast<std::size_t>(ordinal)];
  return CUDA_SUCCESS;
}

void reset(Call& call, Device& device) {
  if (!device.primary) return;
  destroy_context(call.lock, device.primary);
  device.primary = nullptr;
}

}  // namespace

FAKECUDA_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    Device* device = nullptr;
    if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = find_device(call, ordinal, device)) return bad;
    std::shared_ptr<Context> retained;
    if (CUresult bad = retain_primary(call.driver, ordinal, retained)) return bad;
    *context = retained->handle;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDevicePrimaryCtxRelease_v2(CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    Device* device = nullptr;
    if (CUresult bad = find_device(call, ordinal, device)) return bad;
    if (device->primary_references == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--device->primary_references == 0) reset(call, *device);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDevicePrimaryCtxReset_v2(CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    Device* device = nullptr;
    if (CUresult bad = find_device(call, ordinal, device)) return bad;
    reset(call, *device);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned int* flags, int* active) {
  return api(__func__, Need::Init, [&](Call& call) {
    Device* device = nullptr;
    if (CUresult bad = find_device(call, ordinal, device)) return bad;
    if (flags != nullptr) *flags = device->primary ? device->primary->flags : device->primary_flags;
    if (active != nullptr) *active = device->primary != nullptr;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDevicePrimaryCtxSetFlags_v2(CUdevice ordinal, unsigned int flags) {
  return api(__func__, Need::Init, [&](Call& call) {
    Device* device = nullptr;
    if (CUresult bad = find_device(call, ordinal, device)) return bad;
    device->primary_flags = flags;
    if (device->primary) device->primary->flags = flags;
    return CUDA_SUCCESS;
  });
}
