// Events. Handles and flags are the driver's.
#include "call.h"

using namespace fakecuda::runtime;

extern "C" {

cudaError_t cudaEventCreate(cudaEvent_t* event) { return in_context(cuEventCreate, event, 0U); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return in_context(cuEventCreate, event, flags);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) { return in_context(cuEventDestroy, event); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return in_context(cuEventRecord, event, stream);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return in_context(cuEventRecordWithFlags, event, stream, flags);
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return in_context(cuEventQuery, event); }

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return in_context(cuEventSynchronize, event);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return in_context(cuEventElapsedTime, milliseconds, start, end);
}

}  // extern "C"
