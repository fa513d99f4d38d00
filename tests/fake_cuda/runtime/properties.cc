// cudaDeviceProp, filled from the driver's attributes. An attribute that the driver doesn't know
// leaves a 0.
#include <array>
#include <cstring>

#include "call.h"

using namespace fakecuda::runtime;

namespace {

struct Property {
  int cudaDeviceProp::* member;
  CUdevice_attribute attribute;
};

constexpr std::array kIntegers = {
    Property{&cudaDeviceProp::regsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK},
    Property{&cudaDeviceProp::warpSize, CU_DEVICE_ATTRIBUTE_WARP_SIZE},
    Property{&cudaDeviceProp::maxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK},
    Property{&cudaDeviceProp::major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR},
    Property{&cudaDeviceProp::minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR},
    Property{&cudaDeviceProp::multiProcessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT},
    Property{&cudaDeviceProp::integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED},
    Property{&cudaDeviceProp::canMapHostMemory, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY},
    Property{&cudaDeviceProp::concurrentKernels, CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS},
    Property{&cudaDeviceProp::ECCEnabled, CU_DEVICE_ATTRIBUTE_ECC_ENABLED},
    Property{&cudaDeviceProp::pciBusID, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID},
    Property{&cudaDeviceProp::pciDeviceID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID},
    Property{&cudaDeviceProp::pciDomainID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID},
    Property{&cudaDeviceProp::asyncEngineCount, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT},
    Property{&cudaDeviceProp::unifiedAddressing, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING},
    Property{&cudaDeviceProp::memoryBusWidth, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH},
    Property{&cudaDeviceProp::l2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE},
    Property{&cudaDeviceProp::maxThreadsPerMultiProcessor,
             CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR},
    Property{&cudaDeviceProp::streamPrioritiesSupported,
             CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED},
    Property{&cudaDeviceProp::regsPerMultiprocessor,
             CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR},
    Property{&cudaDeviceProp::managedMemory, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY},
    Property{&cudaDeviceProp::pageableMemoryAccess, CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS},
    Property{&cudaDeviceProp::concurrentManagedAccess,
             CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS},
    Property{&cudaDeviceProp::canUseHostPointerForRegisteredMem,
             CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM},
    Property{&cudaDeviceProp::cooperativeLaunch, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH},
    Property{&cudaDeviceProp::maxBlocksPerMultiProcessor,
             CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR},
    Property{&cudaDeviceProp::hostRegisterSupported, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED},
    Property{&cudaDeviceProp::hostRegisterReadOnlySupported,
             CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED},
    Property{&cudaDeviceProp::memoryPoolsSupported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED},
    Property{&cudaDeviceProp::ipcEventSupported, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED},
    Property{&cudaDeviceProp::clusterLaunch, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH},
};

int attribute(CUdevice_attribute name, int device) {
  int value = 0;
  return cuDeviceGetAttribute(&value, name, device) == CUDA_SUCCESS ? value : 0;
}

size_t bytes(CUdevice_attribute name, int device) {
  return static_cast<size_t>(attribute(name, device));
}

// A triple of attributes that have consecutive numbers.
void fill_triple(int (&out)[3], CUdevice_attribute first, int device) {
  for (int i = 0; i < 3; ++i)
    out[i] = attribute(static_cast<CUdevice_attribute>(first + i), device);
}

CUresult fill(cudaDeviceProp* out, int device) {
  *out = {};
  if (CUresult result = cuDeviceGetName(out->name, sizeof out->name, device);
      result != CUDA_SUCCESS)
    return result;
  if (CUresult result = cuDeviceTotalMem(&out->totalGlobalMem, device); result != CUDA_SUCCESS)
    return result;
  CUuuid uuid = {};
  if (CUresult result = cuDeviceGetUuid(&uuid, device); result != CUDA_SUCCESS) return result;
  std::memcpy(&out->uuid, &uuid, sizeof uuid);
  for (const Property& property : kIntegers)
    out->*property.member = attribute(property.attribute, device);
  fill_triple(out->maxThreadsDim, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, device);
  fill_triple(out->maxGridSize, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, device);
  out->sharedMemPerBlock = bytes(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, device);
  out->sharedMemPerBlockOptin =
      bytes(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  out->sharedMemPerMultiprocessor =
      bytes(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, device);
  out->totalConstMem = bytes(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, device);
  out->memPitch = bytes(CU_DEVICE_ATTRIBUTE_MAX_PITCH, device);
  out->textureAlignment = bytes(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, device);
  out->memoryPoolSupportedHandleTypes =
      static_cast<unsigned>(attribute(CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES, device));
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return without_context(fill, properties, device);
}
