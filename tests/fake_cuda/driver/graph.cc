// Graphs, as far as they come from capture: an instance runs what was captured, in order, on one
// stream.
#include "capture.h"

using namespace fakecuda;

FAKECUDA_API cuGraphCreate(CUgraph* graph, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    if (graph == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    *graph = call.driver.graphs.add(std::make_shared<Graph>());
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuGraphDestroy(CUgraph graph) {
  return api(__func__, Need::Init, [&](Call& call) {
    return call.driver.graphs.take(graph) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuGraphGetNodes(CUgraph graph, CUgraphNode*, size_t* count) {
  return api(__func__, Need::Context, [&](Call& call) {
    const auto found = call.driver.graphs.find(graph);
    if (!found || count == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = found->nodes.size();
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) {
  return api(__func__, Need::Context, [&](Call& call) {
    const auto found = call.driver.graphs.find(graph);
    if (!found || exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *exec = call.driver.graph_execs.add(std::make_shared<Graph>(*found));
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuGraphInstantiateWithParams(CUgraphExec* exec, CUgraph graph,
                                          CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  if (params != nullptr) params->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
  return cuGraphInstantiateWithFlags(exec, graph, 0);
}

FAKECUDA_API cuGraphExecDestroy(CUgraphExec exec) {
  return api(__func__, Need::Init, [&](Call& call) {
    return call.driver.graph_execs.take(exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuGraphUpload(CUgraphExec exec, CUstream) {
  return api(__func__, Need::Context, [&](Call& call) {
    return call.driver.graph_execs.find(exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuGraphLaunch(CUgraphExec exec, CUstream handle) {
  return api(__func__, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    const auto found = call.driver.graph_execs.find(exec);
    if (!found) return CUDA_ERROR_INVALID_VALUE;
    count(&fakecuda_counters::graph_launches);
    for (const auto& node : found->nodes)
      if (CUresult bad = enqueue(call, stream, node)) return bad;
    return CUDA_SUCCESS;
  });
}
