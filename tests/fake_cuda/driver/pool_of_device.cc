// Which pool a device, or the host, uses where nobody names one.
#include "host_pool.h"
#include "pool.h"

namespace fakecuda {
namespace {

bool is_device(const Driver& driver, CUdevice ordinal) {
  return ordinal >= 0 && static_cast<std::size_t>(ordinal) < driver.devices.size();
}

// Of a device, or of the host; INVALID_VALUE for any other kind of place.
CUresult pool_of(Call& call, const CUmemLocation* location, bool is_current, CUmemoryPool* pool) {
  if (pool == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (is_host_location(location->type)) {
    *pool = default_host_pool(call.driver);
    return CUDA_SUCCESS;
  }
  if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(call.driver, location->id)) return CUDA_ERROR_INVALID_DEVICE;
  *pool = default_pool(call.driver, location->id);
  if (is_current) *pool = call.driver.devices[static_cast<std::size_t>(location->id)].current_pool;
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    *pool = default_pool(call.driver, ordinal);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    default_pool(call.driver, ordinal);
    *pool = call.driver.devices[static_cast<std::size_t>(ordinal)].current_pool;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceSetMemPool(CUdevice ordinal, CUmemoryPool pool) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    if (!call.driver.pools.find(pool)) return CUDA_ERROR_INVALID_VALUE;
    default_pool(call.driver, ordinal);
    call.driver.devices[static_cast<std::size_t>(ordinal)].current_pool = pool;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemGetDefaultMemPool(CUmemoryPool* pool, CUmemLocation* location,
                                    CUmemAllocationType) {
  return api(__func__, Need::Init,
             [&](Call& call) { return pool_of(call, location, false, pool); });
}

FAKECUDA_API cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType) {
  return api(__func__, Need::Init, [&](Call& call) { return pool_of(call, location, true, pool); });
}
