// Devices: counting, choosing and asking. Device ordinals and attribute numbers are the driver's.
#include "call.h"

using namespace fakecuda::runtime;

namespace {

CUresult reset_primary_context(int device) { return cuDevicePrimaryCtxReset(device); }

CUresult enable_peer_access(int peer, unsigned flags) {
  CUcontext context = nullptr;
  CUresult result = primary_context(peer, &context);
  return result == CUDA_SUCCESS ? cuCtxEnablePeerAccess(context, flags) : result;
}

CUresult disable_peer_access(int peer) {
  CUcontext context = nullptr;
  CUresult result = primary_context(peer, &context);
  return result == CUDA_SUCCESS ? cuCtxDisablePeerAccess(context) : result;
}

}  // namespace

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) { return remember(cuDriverGetVersion(version)); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  cudaError_t error = without_context(cuDeviceGetCount, count);
  return error == cudaSuccess && *count == 0 ? remember(cudaErrorNoDevice) : error;
}

cudaError_t cudaGetDevice(int* device) { return current_device(device); }

cudaError_t cudaSetDevice(int device) { return use_device(device); }

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  CUcontext context = nullptr;
  return remember(primary_context(device, &context));
}

cudaError_t cudaGetDeviceFlags(unsigned* flags) { return in_context(cuCtxGetFlags, flags); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return without_context(cuDeviceGetAttribute, value, static_cast<CUdevice_attribute>(attribute),
                         device);
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  return without_context(cuDeviceGetPCIBusId, id, length, device);
}

cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* id) {
  return without_context(cuDeviceGetByPCIBusId, device, id);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return in_context(cuCtxGetStreamPriorityRange, least, greatest);
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return without_context(cuDeviceCanAccessPeer, can, device, peer);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  return in_context(enable_peer_access, peer, flags);
}

cudaError_t cudaDeviceDisablePeerAccess(int peer) { return in_context(disable_peer_access, peer); }

cudaError_t cudaDeviceSynchronize() { return in_context(cuCtxSynchronize); }

cudaError_t cudaDeviceReset() {
  int device = 0;
  cudaError_t error = current_device(&device);
  return error == cudaSuccess ? remember(reset_primary_context(device)) : error;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* status) {
  CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  *function = nullptr;
  cudaError_t error =
      without_context(cuGetProcAddress, symbol, function, static_cast<int>(version), flags, &found);
  if (status) *status = static_cast<cudaDriverEntryPointQueryResult>(found);
  return error;
}

cudaError_t cudaProfilerStart() { return cudaSuccess; }

cudaError_t cudaProfilerStop() { return cudaSuccess; }

}  // extern "C"
