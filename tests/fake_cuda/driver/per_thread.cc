// The twins that a program gets which was compiled for per-thread default streams: a null stream
// means the thread's own.
#include "api.h"

namespace {

CUstream own(CUstream stream) { return stream != nullptr ? stream : CU_STREAM_PER_THREAD; }

}  // namespace

#define FAKECUDA_TWIN extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI

FAKECUDA_TWIN cuMemcpyAsync_ptsz(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream s) {
  return cuMemcpyAsync(to, from, size, own(s));
}
FAKECUDA_TWIN cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr to, const void* from, size_t size, CUstream s) {
  return cuMemcpyHtoDAsync_v2(to, from, size, own(s));
}
FAKECUDA_TWIN cuMemcpyDtoHAsync_v2_ptsz(void* to, CUdeviceptr from, size_t size, CUstream s) {
  return cuMemcpyDtoHAsync_v2(to, from, size, own(s));
}
FAKECUDA_TWIN cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream s) {
  return cuMemcpyDtoDAsync_v2(to, from, size, own(s));
}
FAKECUDA_TWIN cuMemcpyPeerAsync_ptsz(CUdeviceptr to, CUcontext a, CUdeviceptr from, CUcontext b,
                                     size_t size, CUstream s) {
  return cuMemcpyPeerAsync(to, a, from, b, size, own(s));
}
FAKECUDA_TWIN cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D* what, CUstream s) {
  return cuMemcpy2DAsync_v2(what, own(s));
}
FAKECUDA_TWIN cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D* what, CUstream s) {
  return cuMemcpy3DAsync_v2(what, own(s));
}
FAKECUDA_TWIN cuMemsetD8Async_ptsz(CUdeviceptr to, unsigned char value, size_t number, CUstream s) {
  return cuMemsetD8Async(to, value, number, own(s));
}
FAKECUDA_TWIN cuMemsetD16Async_ptsz(CUdeviceptr to, unsigned short value, size_t number,
                                    CUstream s) {
  return cuMemsetD16Async(to, value, number, own(s));
}
FAKECUDA_TWIN cuMemsetD32Async_ptsz(CUdeviceptr to, unsigned int value, size_t number, CUstream s) {
  return cuMemsetD32Async(to, value, number, own(s));
}
FAKECUDA_TWIN cuStreamGetPriority_ptsz(CUstream s, int* priority) {
  return cuStreamGetPriority(own(s), priority);
}
FAKECUDA_TWIN cuStreamGetFlags_ptsz(CUstream s, unsigned int* flags) {
  return cuStreamGetFlags(own(s), flags);
}
FAKECUDA_TWIN cuStreamGetId_ptsz(CUstream s, unsigned long long* id) {
  return cuStreamGetId(own(s), id);
}
FAKECUDA_TWIN cuStreamGetCtx_ptsz(CUstream s, CUcontext* context) {
  return cuStreamGetCtx(own(s), context);
}
FAKECUDA_TWIN cuStreamGetDevice_ptsz(CUstream s, CUdevice* device) {
  return cuStreamGetDevice(own(s), device);
}
FAKECUDA_TWIN cuStreamWaitEvent_ptsz(CUstream s, CUevent event, unsigned int flags) {
  return cuStreamWaitEvent(own(s), event, flags);
}
FAKECUDA_TWIN cuStreamQuery_ptsz(CUstream s) { return cuStreamQuery(own(s)); }
FAKECUDA_TWIN cuStreamSynchronize_ptsz(CUstream s) { return cuStreamSynchronize(own(s)); }
FAKECUDA_TWIN cuStreamBeginCapture_v2_ptsz(CUstream s, CUstreamCaptureMode mode) {
  return cuStreamBeginCapture_v2(own(s), mode);
}
FAKECUDA_TWIN cuStreamEndCapture_ptsz(CUstream s, CUgraph* graph) {
  return cuStreamEndCapture(own(s), graph);
}
FAKECUDA_TWIN cuStreamIsCapturing_ptsz(CUstream s, CUstreamCaptureStatus* status) {
  return cuStreamIsCapturing(own(s), status);
}
FAKECUDA_TWIN cuEventRecord_ptsz(CUevent event, CUstream s) { return cuEventRecord(event, own(s)); }
FAKECUDA_TWIN cuEventRecordWithFlags_ptsz(CUevent event, CUstream s, unsigned int flags) {
  return cuEventRecordWithFlags(event, own(s), flags);
}
FAKECUDA_TWIN cuLaunchHostFunc_ptsz(CUstream s, CUhostFn function, void* data) {
  return cuLaunchHostFunc(own(s), function, data);
}
FAKECUDA_TWIN cuGraphLaunch_ptsz(CUgraphExec exec, CUstream s) {
  return cuGraphLaunch(exec, own(s));
}
FAKECUDA_TWIN cuGraphUpload_ptsz(CUgraphExec exec, CUstream s) {
  return cuGraphUpload(exec, own(s));
}
FAKECUDA_TWIN cuLaunchKernel_ptsz(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                                  unsigned int bx, unsigned int by, unsigned int bz,
                                  unsigned int shared, CUstream s, void** parameters,
                                  void** extra) {
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, own(s), parameters, extra);
}
FAKECUDA_TWIN cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* p, size_t size, CUmemoryPool pool,
                                           CUstream s) {
  return cuMemAllocFromPoolAsync(p, size, pool, own(s));
}
FAKECUDA_TWIN cuMemAllocAsync_ptsz(CUdeviceptr* p, size_t size, CUstream s) {
  return cuMemAllocAsync(p, size, own(s));
}
FAKECUDA_TWIN cuMemFreeAsync_ptsz(CUdeviceptr p, CUstream s) { return cuMemFreeAsync(p, own(s)); }
