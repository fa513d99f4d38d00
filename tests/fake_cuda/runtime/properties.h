// cudaDeviceProp, filled from the attributes of the driver. One that the driver doesn't know leaves
// a 0. The struct differs between versions of the runtime in what else it has.
#pragma once

#include <array>
#include <cstring>

#include "call.h"

namespace fakecuda::runtime {

template <class Properties>
struct Property {
  int Properties::* member;
  CUdevice_attribute attribute;
};

template <class Properties>
constexpr std::array kIntegerProperties = {
    Property{&Properties::regsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK},
    Property{&Properties::warpSize, CU_DEVICE_ATTRIBUTE_WARP_SIZE},
    Property{&Properties::maxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK},
    Property{&Properties::major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR},
    Property{&Properties::minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR},
    Property{&Properties::multiProcessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT},
    Property{&Properties::integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED},
    Property{&Properties::canMapHostMemory, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY},
    Property{&Properties::concurrentKernels, CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS},
    Property{&Properties::ECCEnabled, CU_DEVICE_ATTRIBUTE_ECC_ENABLED},
    Property{&Properties::pciBusID, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID},
    Property{&Properties::pciDeviceID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID},
    Property{&Properties::pciDomainID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID},
    Property{&Properties::asyncEngineCount, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT},
    Property{&Properties::unifiedAddressing, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING},
    Property{&Properties::memoryBusWidth, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH},
    Property{&Properties::l2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE},
    Property{&Properties::maxThreadsPerMultiProcessor,
             CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR},
    Property{&Properties::streamPrioritiesSupported,
             CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED},
    Property{&Properties::regsPerMultiprocessor,
             CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR},
    Property{&Properties::managedMemory, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY},
    Property{&Properties::pageableMemoryAccess, CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS},
    Property{&Properties::concurrentManagedAccess, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS},
    Property{&Properties::canUseHostPointerForRegisteredMem,
             CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM},
    Property{&Properties::cooperativeLaunch, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH},
    Property{&Properties::maxBlocksPerMultiProcessor,
             CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR},
    Property{&Properties::hostRegisterSupported, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED},
    Property{&Properties::hostRegisterReadOnlySupported,
             CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED},
    Property{&Properties::memoryPoolsSupported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED},
    Property{&Properties::ipcEventSupported, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED},
    Property{&Properties::clusterLaunch, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH},
};

inline int attribute(CUdevice_attribute name, int device) {
  int value = 0;
  return cuDeviceGetAttribute(&value, name, device) == CUDA_SUCCESS ? value : 0;
}

inline size_t bytes_attribute(CUdevice_attribute name, int device) {
  return static_cast<size_t>(attribute(name, device));
}

// A triple of attributes that have consecutive numbers.
inline void fill_triple(int (&out)[3], CUdevice_attribute first, int device) {
  for (int i = 0; i < 3; ++i)
    out[i] = attribute(static_cast<CUdevice_attribute>(first + i), device);
}

template <class Properties>
CUresult fill_properties(Properties* out, int device) {
  *out = {};
  if (CUresult result = cuDeviceGetName(out->name, sizeof out->name, device);
      result != CUDA_SUCCESS)
    return result;
  if (CUresult result = cuDeviceTotalMem(&out->totalGlobalMem, device); result != CUDA_SUCCESS)
    return result;
  CUuuid uuid = {};
  if (CUresult result = cuDeviceGetUuid(&uuid, device); result != CUDA_SUCCESS) return result;
  std::memcpy(&out->uuid, &uuid, sizeof uuid);
  for (const auto& property : kIntegerProperties<Properties>)
    out->*property.member = attribute(property.attribute, device);
  fill_triple(out->maxThreadsDim, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, device);
  fill_triple(out->maxGridSize, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, device);
  out->sharedMemPerBlock = bytes_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, device);
  out->sharedMemPerBlockOptin =
      bytes_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  out->sharedMemPerMultiprocessor =
      bytes_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, device);
  out->totalConstMem = bytes_attribute(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, device);
  out->memPitch = bytes_attribute(CU_DEVICE_ATTRIBUTE_MAX_PITCH, device);
  out->textureAlignment = bytes_attribute(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, device);
  out->memoryPoolSupportedHandleTypes =
      static_cast<unsigned>(attribute(CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES, device));
  return CUDA_SUCCESS;
}

}  // namespace fakecuda::runtime
