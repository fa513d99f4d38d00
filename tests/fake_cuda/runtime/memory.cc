// Device and pinned host memory. A size of 0 and a null pointer are fine here, unlike in the
// driver.
#include <array>

#include "call.h"

using namespace fakecuda::runtime;

namespace {

CUresult allocate(void** pointer, size_t bytes) {
  CUdeviceptr address = 0;
  CUresult result = bytes == 0 ? CUDA_SUCCESS : cuMemAlloc(&address, bytes);
  *pointer = reinterpret_cast<void*>(address);
  return result;
}

CUresult release(const void* pointer) {
  return pointer ? cuMemFree(device_address(pointer)) : CUDA_SUCCESS;
}

CUresult allocate_host(void** pointer, size_t bytes, unsigned flags) {
  *pointer = nullptr;
  return bytes == 0 ? CUDA_SUCCESS : cuMemHostAlloc(pointer, bytes, flags);
}

CUresult release_host(void* pointer) { return pointer ? cuMemFreeHost(pointer) : CUDA_SUCCESS; }

cudaMemoryType memory_type(unsigned driver_type, bool managed) {
  if (managed) return cudaMemoryTypeManaged;
  if (driver_type == CU_MEMORYTYPE_HOST) return cudaMemoryTypeHost;
  return driver_type == CU_MEMORYTYPE_DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
}

CUresult describe(cudaPointerAttributes* out, const void* pointer) {
  unsigned type = 0;
  unsigned managed = 0;
  int device = 0;
  CUdeviceptr on_device = 0;
  void* on_host = nullptr;
  std::array asked = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
                      CU_POINTER_ATTRIBUTE_HOST_POINTER};
  std::array<void*, asked.size()> answers = {&type, &managed, &device, &on_device,
                                             static_cast<void*>(&on_host)};
  CUresult result =
      cuPointerGetAttributes(asked.size(), asked.data(), answers.data(), device_address(pointer));
  if (result != CUDA_SUCCESS) return result;
  // Only these are written: CUDA 13's struct goes on, and a client of CUDA 12 has no room for more.
  out->type = memory_type(type, managed != 0);
  bool known = out->type != cudaMemoryTypeUnregistered;
  out->device = known ? device : cudaInvalidDeviceId;
  out->devicePointer = known ? reinterpret_cast<void*>(on_device) : nullptr;
  out->hostPointer = known ? on_host : const_cast<void*>(pointer);
  return CUDA_SUCCESS;
}

CUresult device_pointer(void** out, void* host, unsigned flags) {
  CUdeviceptr address = 0;
  CUresult result = cuMemHostGetDevicePointer(&address, host, flags);
  *out = reinterpret_cast<void*>(address);
  return result;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return in_context(allocate, pointer, bytes);
}

cudaError_t cudaFree(void* pointer) { return in_context(release, pointer); }

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  return in_context(allocate_host, pointer, bytes, flags);
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return in_context(allocate_host, pointer, bytes, 0U);
}

cudaError_t cudaFreeHost(void* pointer) { return in_context(release_host, pointer); }

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return in_context(cuMemHostRegister, pointer, bytes, flags);
}

cudaError_t cudaHostUnregister(void* pointer) { return in_context(cuMemHostUnregister, pointer); }

cudaError_t cudaHostGetDevicePointer(void** out, void* host, unsigned flags) {
  return in_context(device_pointer, out, host, flags);
}

cudaError_t cudaHostGetFlags(unsigned* flags, void* host) {
  return in_context(cuMemHostGetFlags, flags, host);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return in_context(cuMemGetInfo, free, total);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return in_context(describe, attributes, pointer);
}

}  // extern "C"
