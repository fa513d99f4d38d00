// The twins that a program gets which was compiled for per-thread default streams: a null stream
// means the thread's own.
#include "api.h"

namespace {

CUstream own(CUstream stream) { return stream != nullptr ? stream : CU_STREAM_PER_THREAD; }

}  // namespace

FAKECUDA_API cuMemcpyAsync_ptsz(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream s) {
  return cuMemcpyAsync(to, from, size, own(s));
}
FAKECUDA_API cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr to, const void* from, size_t size, CUstream s) {
  return cuMemcpyHtoDAsync_v2(to, from, size, own(s));
}
FAKECUDA_API cuMemcpyDtoHAsync_v2_ptsz(void* to, CUdeviceptr from, size_t size, CUstream s) {
  return cuMemcpyDtoHAsync_v2(to, from, size, own(s));
}
FAKECUDA_API cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream s) {
  return cuMemcpyDtoDAsync_v2(to, from, size, own(s));
}
FAKECUDA_API cuMemcpyPeerAsync_ptsz(CUdeviceptr to, CUcontext a, CUdeviceptr from, CUcontext b,
                                    size_t size, CUstream s) {
  return cuMemcpyPeerAsync(to, a, from, b, size, own(s));
}
FAKECUDA_API cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D* what, CUstream s) {
  return cuMemcpy2DAsync_v2(what, own(s));
}
FAKECUDA_API cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D* what, CUstream s) {
  return cuMemcpy3DAsync_v2(what, own(s));
}
FAKECUDA_API cuMemsetD8Async_ptsz(CUdeviceptr to, unsigned char value, size_t number, CUstream s) {
  return cuMemsetD8Async(to, value, number, own(s));
}
FAKECUDA_API cuMemsetD16Async_ptsz(CUdeviceptr to, unsigned short value, size_t number,
                                   CUstream s) {
  return cuMemsetD16Async(to, value, number, own(s));
}
FAKECUDA_API cuMemsetD32Async_ptsz(CUdeviceptr to, unsigned int value, size_t number, CUstream s) {
  return cuMemsetD32Async(to, value, number, own(s));
}
FAKECUDA_API cuStreamGetPriority_ptsz(CUstream s, int* priority) {
  return cuStreamGetPriority(own(s), priority);
}
FAKECUDA_API cuStreamGetFlags_ptsz(CUstream s, unsigned int* flags) {
  return cuStreamGetFlags(own(s), flags);
}
FAKECUDA_API cuStreamGetId_ptsz(CUstream s, unsigned long long* id) {
  return cuStreamGetId(own(s), id);
}
FAKECUDA_API cuStreamGetCtx_ptsz(CUstream s, CUcontext* context) {
  return cuStreamGetCtx(own(s), context);
}
FAKECUDA_API cuStreamGetDevice_ptsz(CUstream s, CUdevice* device) {
  return cuStreamGetDevice(own(s), device);
}
FAKECUDA_API cuStreamWaitEvent_ptsz(CUstream s, CUevent event, unsigned int flags) {
  return cuStreamWaitEvent(own(s), event, flags);
}
FAKECUDA_API cuStreamQuery_ptsz(CUstream s) { return cuStreamQuery(own(s)); }
FAKECUDA_API cuStreamSynchronize_ptsz(CUstream s) { return cuStreamSynchronize(own(s)); }
FAKECUDA_API cuStreamBeginCapture_v2_ptsz(CUstream s, CUstreamCaptureMode mode) {
  return cuStreamBeginCapture_v2(own(s), mode);
}
FAKECUDA_API cuStreamEndCapture_ptsz(CUstream s, CUgraph* graph) {
  return cuStreamEndCapture(own(s), graph);
}
FAKECUDA_API cuStreamIsCapturing_ptsz(CUstream s, CUstreamCaptureStatus* status) {
  return cuStreamIsCapturing(own(s), status);
}
FAKECUDA_API cuEventRecord_ptsz(CUevent event, CUstream s) { return cuEventRecord(event, own(s)); }
FAKECUDA_API cuEventRecordWithFlags_ptsz(CUevent event, CUstream s, unsigned int flags) {
  return cuEventRecordWithFlags(event, own(s), flags);
}
FAKECUDA_API cuLaunchHostFunc_ptsz(CUstream s, CUhostFn function, void* data) {
  return cuLaunchHostFunc(own(s), function, data);
}
FAKECUDA_API cuGraphLaunch_ptsz(CUgraphExec exec, CUstream s) {
  return cuGraphLaunch(exec, own(s));
}
FAKECUDA_API cuGraphUpload_ptsz(CUgraphExec exec, CUstream s) {
  return cuGraphUpload(exec, own(s));
}
FAKECUDA_API cuLaunchKernel_ptsz(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                                 unsigned int bx, unsigned int by, unsigned int bz,
                                 unsigned int shared, CUstream s, void** parameters, void** extra) {
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, own(s), parameters, extra);
}
FAKECUDA_API cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* p, size_t size, CUmemoryPool pool,
                                          CUstream s) {
  return cuMemAllocFromPoolAsync(p, size, pool, own(s));
}
FAKECUDA_API cuMemAllocAsync_ptsz(CUdeviceptr* p, size_t size, CUstream s) {
  return cuMemAllocAsync(p, size, own(s));
}
FAKECUDA_API cuMemFreeAsync_ptsz(CUdeviceptr p, CUstream s) { return cuMemFreeAsync(p, own(s)); }
FAKECUDA_API cuStreamAddCallback_ptsz(CUstream s, CUstreamCallback function, void* data,
                                      unsigned int flags) {
  return cuStreamAddCallback(own(s), function, data, flags);
}
FAKECUDA_API cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction function,
                                   void** parameters, void** extra) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUlaunchConfig mine = *config;
  mine.hStream = own(mine.hStream);
  return cuLaunchKernelEx(&mine, function, parameters, extra);
}
