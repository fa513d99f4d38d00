// Memory pools: handles, attributes and access descriptions are the driver's.
#include "call.h"

using namespace fakecuda::runtime;

namespace {

CUresult set_access(CUmemoryPool pool, const cudaMemAccessDesc* access, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    CUmemAccessDesc one = {};
    one.location.type = static_cast<CUmemLocationType>(access[i].location.type);
    one.location.id = access[i].location.id;
    one.flags = static_cast<CUmemAccess_flags>(access[i].flags);
    if (CUresult result = cuMemPoolSetAccess(pool, &one, 1); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult allocate(void** pointer, size_t bytes, CUstream stream) {
  CUdeviceptr address = 0;
  CUresult result = bytes == 0 ? CUDA_SUCCESS : cuMemAllocAsync(&address, bytes, stream);
  *pointer = reinterpret_cast<void*>(address);
  return result;
}

CUresult release(const void* pointer, CUstream stream) {
  return pointer ? cuMemFreeAsync(device_address(pointer), stream) : CUDA_SUCCESS;
}

}  // namespace

extern "C" {

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  return without_context(cuDeviceGetDefaultMemPool, pool, device);
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return without_context(cuMemPoolGetAttribute, pool, static_cast<CUmemPool_attribute>(attribute),
                         value);
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return without_context(cuMemPoolSetAttribute, pool, static_cast<CUmemPool_attribute>(attribute),
                         value);
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc* access,
                                 size_t count) {
  return without_context(set_access, pool, access, count);
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) {
  return without_context(cuMemPoolTrimTo, pool, bytes);
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  return in_context(allocate, pointer, bytes, stream);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return in_context(release, pointer, stream);
}

}  // extern "C"
