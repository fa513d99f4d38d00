// Legacy IPC: the handles of both APIs are the same 64 opaque bytes.
#include <bit>

#include "call.h"

using namespace fakecuda::runtime;

namespace {

CUresult get_memory_handle(cudaIpcMemHandle_t* out, void* pointer) {
  CUipcMemHandle handle = {};
  CUresult result = cuIpcGetMemHandle(&handle, device_address(pointer));
  *out = std::bit_cast<cudaIpcMemHandle_t>(handle);
  return result;
}

CUresult open_memory_handle(void** out, cudaIpcMemHandle_t handle, unsigned flags) {
  CUdeviceptr address = 0;
  CUresult result = cuIpcOpenMemHandle(&address, std::bit_cast<CUipcMemHandle>(handle), flags);
  *out = reinterpret_cast<void*>(address);
  return result;
}

CUresult get_event_handle(cudaIpcEventHandle_t* out, CUevent event) {
  CUipcEventHandle handle = {};
  CUresult result = cuIpcGetEventHandle(&handle, event);
  *out = std::bit_cast<cudaIpcEventHandle_t>(handle);
  return result;
}

}  // namespace

extern "C" {

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* pointer) {
  return in_context(get_memory_handle, handle, pointer);
}

cudaError_t cudaIpcOpenMemHandle(void** pointer, cudaIpcMemHandle_t handle, unsigned flags) {
  return in_context(open_memory_handle, pointer, handle, flags);
}

cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  return in_context(cuIpcCloseMemHandle, device_address(pointer));
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  return in_context(get_event_handle, handle, event);
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  return in_context(cuIpcOpenEventHandle, event, std::bit_cast<CUipcEventHandle>(handle));
}

}  // extern "C"
