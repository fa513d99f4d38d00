// How the fake runtime reaches the emulated driver.
//
// The runtime API is the driver API plus three things kept here: each thread has a current device,
// whose primary context is made and bound by the first call that needs one; each thread remembers
// its last error; and error codes of the two APIs are the same numbers.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace fakecuda::runtime {

// The device of the calling thread: that of its current context, else the one chosen by
// cudaSetDevice, else 0.
cudaError_t current_device(int* device);

// Makes `device` the calling thread's and binds its primary context, which is made if need be and
// kept until exit.
cudaError_t use_device(int device);

// The primary context of a device, retained once by the process; does not bind it.
CUresult primary_context(int device, CUcontext* context);

// A context is current on return, as before any call of the runtime that touches a device.
CUresult ensure_context();

// Remembers an error as the calling thread's last; success changes nothing. Returns what it was
// given.
cudaError_t remember(cudaError_t error);

inline cudaError_t remember(CUresult result) { return remember(static_cast<cudaError_t>(result)); }

// The thread's last error, which is forgotten if `clear`.
cudaError_t last_error(bool clear);

// Says once for each name, on stderr, that a function isn't emulated, and answers
// cudaErrorNotSupported. For code generated from unsupported.txt, which sees no types of CUDA's.
int not_supported_by_name(const char* function);

// Calls a function of the driver that needs no context but an initialised driver.
template <class... Parameters, class... Arguments>
cudaError_t without_context(CUresult (*function)(Parameters...), Arguments... arguments) {
  CUresult result = cuInit(0);
  if (result == CUDA_SUCCESS) result = function(arguments...);
  return remember(result);
}

// Calls a function of the driver with the current device's context bound.
template <class... Parameters, class... Arguments>
cudaError_t in_context(CUresult (*function)(Parameters...), Arguments... arguments) {
  CUresult result = ensure_context();
  if (result == CUDA_SUCCESS) result = function(arguments...);
  return remember(result);
}

inline CUdeviceptr device_address(const void* pointer) {
  return reinterpret_cast<CUdeviceptr>(pointer);
}

}  // namespace fakecuda::runtime
