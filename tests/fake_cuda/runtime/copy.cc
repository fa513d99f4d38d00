// Copies and fills. The direction that a caller names is ignored: unified addressing tells it.
#include "call.h"

using namespace fakecuda::runtime;

namespace {

// A plane of `height` rows of `width` bytes, rows `pitch` bytes apart, on either side.
CUDA_MEMCPY2D plane(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                    size_t height) {
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
  copy.srcDevice = device_address(from);
  copy.srcPitch = from_pitch;
  copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
  copy.dstDevice = device_address(to);
  copy.dstPitch = to_pitch;
  copy.WidthInBytes = width;
  copy.Height = height;
  return copy;
}

CUresult copy_peer(void* to, int to_device, const void* from, int from_device, size_t bytes,
                   CUstream stream) {
  CUcontext to_context = nullptr;
  CUcontext from_context = nullptr;
  CUresult result = primary_context(to_device, &to_context);
  if (result == CUDA_SUCCESS) result = primary_context(from_device, &from_context);
  if (result != CUDA_SUCCESS) return result;
  return cuMemcpyPeerAsync(device_address(to), to_context, device_address(from), from_context,
                           bytes, stream);
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return in_context(cuMemcpy, device_address(to), device_address(from), bytes);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return in_context(cuMemcpyAsync, device_address(to), device_address(from), bytes, stream);
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind) {
  CUDA_MEMCPY2D copy = plane(to, to_pitch, from, from_pitch, width, height);
  return in_context(cuMemcpy2D, &copy);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  CUDA_MEMCPY2D copy = plane(to, to_pitch, from, from_pitch, width, height);
  return in_context(cuMemcpy2DAsync, &copy, stream);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                size_t bytes, cudaStream_t stream) {
  return in_context(copy_peer, to, to_device, from, from_device, bytes, stream);
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  return in_context(cuMemsetD8, device_address(pointer), static_cast<unsigned char>(value), bytes);
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  return in_context(cuMemsetD8Async, device_address(pointer), static_cast<unsigned char>(value),
                    bytes, stream);
}

}  // extern "C"
