// Memory pools: made, asked, and who may reach into them.
#include "pool.h"

#include "host_pool.h"

#include <algorithm>

namespace fakecuda {
namespace {

CUresult create(Call& call, CUmemoryPool* handle, const CUmemPoolProps& properties) {
  if (handle == nullptr || properties.allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
    return CUDA_ERROR_INVALID_VALUE;
  if (is_host_location(properties.location.type) && properties.handleTypes == 0) {
    *handle = add_host_pool(call.driver);
    return CUDA_SUCCESS;
  }
  if (properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  const int ordinal = properties.location.id;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  if ((properties.handleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (properties.handleTypes != 0 && !call.driver.settings.abilities.does_vmm_fd)
    return CUDA_ERROR_INVALID_VALUE;
  *handle = add_pool(call.driver, ordinal, static_cast<unsigned>(properties.handleTypes));
  return CUDA_SUCCESS;
}

CUresult set_access(Call& call, CUmemoryPool handle, const CUmemAccessDesc& access) {
  const auto pool = call.driver.pools.find(handle);
  const int ordinal = access.location.id;
  if (pool && pool->is_host) return CUDA_SUCCESS;  // every device reaches pinned memory
  if (!pool || access.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  if (ordinal == pool->device && access.flags == CU_MEM_ACCESS_FLAGS_PROT_NONE)
    return CUDA_ERROR_INVALID_DEVICE;
  const auto& devices = call.driver.devices;
  if (ordinal != pool->device &&
      !can_access_peer(call.driver.settings, devices[static_cast<std::size_t>(ordinal)].physical,
                       devices[static_cast<std::size_t>(pool->device)].physical))
    return CUDA_ERROR_INVALID_DEVICE;
  const std::uint32_t bit = 1U << ordinal;
  pool->readable =
      access.flags != CU_MEM_ACCESS_FLAGS_PROT_NONE ? pool->readable | bit : pool->readable & ~bit;
  pool->writable = access.flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? pool->writable | bit
                                                                      : pool->writable & ~bit;
  for (const auto& [base, mapping] : call.driver.space.mappings()) {
    if (mapping.pool != handle) continue;
    Mapping* writable = call.driver.space.find(base);
    writable->readable = pool->readable;
    writable->writable = pool->writable;
  }
  return CUDA_SUCCESS;
}

// Attributes are int or cuuint64_t, by which one it is.
bool is_wide(CUmemPool_attribute attribute) {
  return attribute >= CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
}

CUresult get_attribute(const Pool& pool, CUmemPool_attribute attribute, void* value) {
  std::uint64_t number = 0;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      number = pool.used;
      break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      number = pool.used_peak;
      break;
    default: {
      const auto found = pool.attributes.find(attribute);
      number = found != pool.attributes.end() ? found->second : is_wide(attribute) ? 0 : 1;
    }
  }
  if (is_wide(attribute))
    *static_cast<cuuint64_t*>(value) = number;
  else
    *static_cast<int*>(value) = static_cast<int>(number);
  return CUDA_SUCCESS;
}

}  // namespace

CUmemoryPool add_pool(Driver& driver, int device, unsigned handle_types) {
  auto pool = std::make_shared<Pool>();
  pool->device = device;
  pool->handle_types = handle_types;
  pool->readable = pool->writable = 1U << device;
  return driver.pools.add(std::move(pool));
}

CUmemoryPool default_pool(Driver& driver, int ordinal) {
  Device& device = driver.devices[static_cast<std::size_t>(ordinal)];
  if (device.pool == nullptr) device.pool = device.current_pool = add_pool(driver, ordinal, 0);
  return device.pool;
}

bool is_default_pool(const Driver& driver, CUmemoryPool pool) {
  return pool == driver.host_pool ||
         std::any_of(driver.devices.begin(), driver.devices.end(),
                     [pool](const Device& device) { return device.pool == pool; });
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
  return api(__func__, Need::Init, [&](Call& call) {
    return properties == nullptr ? CUDA_ERROR_INVALID_VALUE : create(call, pool, *properties);
  });
}

FAKECUDA_API cuMemPoolDestroy(CUmemoryPool pool) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (is_default_pool(call.driver, pool)) return CUDA_ERROR_INVALID_VALUE;
    return call.driver.pools.take(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  return api(__func__, Need::Init, [&](Call& call) {
    return call.driver.pools.find(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute,
                                   void* value) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto pool = call.driver.pools.find(handle);
    return pool && value != nullptr ? get_attribute(*pool, attribute, value)
                                    : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute,
                                   void* value) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto pool = call.driver.pools.find(handle);
    if (!pool || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    pool->attributes[attribute] = is_wide(attribute)
                                      ? *static_cast<cuuint64_t*>(value)
                                      : static_cast<std::uint64_t>(*static_cast<int*>(value));
    if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH) pool->used_peak = pool->used;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* access, size_t number) {
  return api(__func__, Need::Init, [&](Call& call) {
    for (std::size_t i = 0; i < number; ++i)
      if (CUresult bad = set_access(call, pool, access[i])) return bad;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool handle,
                                CUmemLocation* location) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto pool = call.driver.pools.find(handle);
    if (!pool || flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::uint32_t bit = 1U << location->id;
    if (pool->is_host) {
      *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      return CUDA_SUCCESS;
    }
    *flags = (pool->writable & bit) != 0   ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
             : (pool->readable & bit) != 0 ? CU_MEM_ACCESS_FLAGS_PROT_READ
                                           : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
  });
}
