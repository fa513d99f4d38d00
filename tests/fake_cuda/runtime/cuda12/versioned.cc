// Functions whose form changed with CUDA 13, as CUDA 12 has them. Its header's macros name the
// suffixed ones.
#include "call.h"
#include "capture.h"
#include "device_properties.h"
#include "properties.h"

using namespace fakecuda::runtime;

extern "C" {

cudaError_t cudaGetDeviceProperties_v2(DeviceProperties12* properties, int device);
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                        unsigned long long* id, cudaGraph_t* graph,
                                        const cudaGraphNode_t** dependencies, size_t* count);
cudaError_t cudaStreamGetCaptureInfo_v3(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                        unsigned long long* id, cudaGraph_t* graph,
                                        const cudaGraphNode_t** dependencies,
                                        const cudaGraphEdgeData** edges, size_t* count);

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 12080;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties_v2(DeviceProperties12* properties, int device) {
  return without_context(fill_properties<DeviceProperties12>, properties, device);
}

cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                        unsigned long long* id, cudaGraph_t* graph,
                                        const cudaGraphNode_t** dependencies, size_t* count) {
  return in_context(capture_info, stream, status, id, graph, dependencies, nullptr, count);
}

cudaError_t cudaStreamGetCaptureInfo_v3(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                        unsigned long long* id, cudaGraph_t* graph,
                                        const cudaGraphNode_t** dependencies,
                                        const cudaGraphEdgeData** edges, size_t* count) {
  return in_context(capture_info, stream, status, id, graph, dependencies, edges, count);
}

}  // extern "C"
