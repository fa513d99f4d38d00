// What became of a capture's query between versions of the runtime; here as CUDA 13 has it.
#include "call.h"

using namespace fakecuda::runtime;

namespace {

CUresult info(CUstream stream, cudaStreamCaptureStatus* status, unsigned long long* id,
              cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
              const cudaGraphEdgeData** edges, size_t* count) {
  CUstreamCaptureStatus found = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t capture_id = 0;
  CUresult result = cuStreamGetCaptureInfo(stream, &found, &capture_id, graph, dependencies,
                                           reinterpret_cast<const CUgraphEdgeData**>(edges), count);
  *status = static_cast<cudaStreamCaptureStatus>(found);
  if (id) *id = capture_id;
  return result;
}

}  // namespace

extern "C" cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream,
                                                cudaStreamCaptureStatus* status,
                                                unsigned long long* id, cudaGraph_t* graph,
                                                const cudaGraphNode_t** dependencies,
                                                const cudaGraphEdgeData** edges, size_t* count) {
  return in_context(info, stream, status, id, graph, dependencies, edges, count);
}
