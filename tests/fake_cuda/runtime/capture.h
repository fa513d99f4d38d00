// The state of a stream's capture, as its query looks since CUDA 12.3. Null outputs aren't filled.
#pragma once

#include "call.h"

namespace fakecuda::runtime {

inline CUresult capture_info(CUstream stream, cudaStreamCaptureStatus* status,
                             unsigned long long* id, cudaGraph_t* graph,
                             const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges,
                             size_t* count) {
  CUstreamCaptureStatus found = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t capture_id = 0;
  CUresult result = cuStreamGetCaptureInfo(stream, &found, &capture_id, graph, dependencies,
                                           reinterpret_cast<const CUgraphEdgeData**>(edges), count);
  *status = static_cast<cudaStreamCaptureStatus>(found);
  if (id) *id = capture_id;
  return result;
}

}  // namespace fakecuda::runtime
