// Functions whose form changed with CUDA 13.
#include "call.h"
#include "capture.h"
#include "properties.h"

using namespace fakecuda::runtime;

extern "C" {

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return without_context(fill_properties<cudaDeviceProp>, properties, device);
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  return in_context(capture_info, stream, status, id, graph, dependencies, edges, count);
}

}  // extern "C"
