// Streams, and the state of their capture. Handles, flags and modes are the driver's.
#include "call.h"

using namespace fakecuda::runtime;

namespace {

CUresult query_status(CUstream stream, cudaStreamCaptureStatus* status) {
  CUstreamCaptureStatus found = CU_STREAM_CAPTURE_STATUS_NONE;
  CUresult result = cuStreamIsCapturing(stream, &found);
  *status = static_cast<cudaStreamCaptureStatus>(found);
  return result;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return in_context(cuStreamCreate, stream, 0U);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return in_context(cuStreamCreate, stream, flags);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return in_context(cuStreamCreateWithPriority, stream, flags, priority);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) { return in_context(cuStreamDestroy, stream); }

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  return in_context(cuStreamGetPriority, stream, priority);
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  return in_context(cuStreamGetFlags, stream, flags);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) { return in_context(cuStreamQuery, stream); }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return in_context(cuStreamSynchronize, stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return in_context(cuStreamWaitEvent, stream, event, flags);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return in_context(cuLaunchHostFunc, stream, function, data);
}

// The two callbacks differ in the type of the error that they are given, which is the same number.
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data,
                                  unsigned flags) {
  return in_context(cuStreamAddCallback, stream, reinterpret_cast<CUstreamCallback>(callback), data,
                    flags);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return in_context(query_status, stream, status);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return in_context(cuStreamBeginCapture, stream, static_cast<CUstreamCaptureMode>(mode));
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return in_context(cuStreamEndCapture, stream, graph);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  auto exchanged = static_cast<CUstreamCaptureMode>(*mode);
  cudaError_t error = without_context(cuThreadExchangeStreamCaptureMode, &exchanged);
  *mode = static_cast<cudaStreamCaptureMode>(exchanged);
  return error;
}

}  // extern "C"
