// What a stream does beyond copies: host functions, and kernels, which compute nothing here.
#include "capture.h"
#include "checker.h"
#include "copy.h"

#include <string>

namespace fakecuda {
namespace {

CUresult launch(Call& call, CUstream handle, const char* name, std::vector<Touch> touches) {
  std::shared_ptr<Stream> stream;
  if (CUresult bad = find_stream(call, handle, stream)) return bad;
  Operation operation;
  operation.what = name;
  operation.run = [touches, device = stream->device] {
    Lock lock(driver().mutex);
    for (const auto& touch : touches) {
      std::vector<Piece> pieces;
      if (CUresult bad = driver().space.reach(touch, device, pieces)) return bad;
    }
    return CUDA_SUCCESS;
  };
  operation.touches = std::move(touches);
  count(&fakecuda_counters::kernels);
  return enqueue(call, stream, std::move(operation));
}

CUresult host_function(Call& call, CUstream handle, CUhostFn function, void* data) {
  std::shared_ptr<Stream> stream;
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = find_stream(call, handle, stream)) return bad;
  Operation operation;
  operation.what = "host function";
  operation.on_worker = true;
  operation.run = [function, data, before = clock_of(call.driver, *stream)] {
    note_seen(driver(), before);  // a host thread knows of it now
    function(data);
    return CUDA_SUCCESS;
  };
  count(&fakecuda_counters::host_functions);
  return enqueue(call, stream, std::move(operation));
}

// The older kind of host function: it is called after an error too, and told of it.
CUresult callback(Call& call, CUstream handle, CUstreamCallback function, void* data) {
  std::shared_ptr<Stream> stream;
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = find_stream(call, handle, stream)) return bad;
  if (CUresult bad = refuse_on_capturing(stream)) return bad;
  Operation operation;
  operation.what = "stream callback";
  operation.on_worker = true;
  operation.runs_after_error = true;
  operation.run = [function, data, handle, context = stream->context,
                   before = clock_of(call.driver, *stream)] {
    note_seen(driver(), before);
    CUresult status = CUDA_SUCCESS;
    {
      Lock lock(driver().mutex);
      status = context_error(context);
    }
    function(handle, status, data);
    return CUDA_SUCCESS;
  };
  count(&fakecuda_counters::host_functions);
  return enqueue(call, stream, std::move(operation));
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  return api(__func__, Need::Context,
             [&](Call& call) { return host_function(call, stream, function, data); });
}

FAKECUDA_API cuStreamAddCallback(CUstream stream, CUstreamCallback function, void* data,
                                 unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    return flags != 0 ? CUDA_ERROR_INVALID_VALUE : callback(call, stream, function, data);
  });
}

FAKECUDA_API cuLaunchKernel(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                            unsigned int, unsigned int, unsigned int, CUstream stream, void**,
                            void**) {
  return api(__func__, Need::Context,
             [&](Call& call) { return launch(call, stream, "kernel", {}); });
}

FAKECUDA_API cuLaunchCooperativeKernel(CUfunction, unsigned int, unsigned int, unsigned int,
                                       unsigned int, unsigned int, unsigned int, unsigned int,
                                       CUstream stream, void**) {
  return api(__func__, Need::Context,
             [&](Call& call) { return launch(call, stream, "kernel", {}); });
}

FAKECUDA_API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction, void**, void**) {
  return api(__func__, Need::Context, [&](Call& call) {
    return config == nullptr ? CUDA_ERROR_INVALID_VALUE
                             : launch(call, config->hStream, "kernel", {});
  });
}

extern "C" int fakecuda_launch(void* stream, const char*, const uint64_t* read,
                               const uint64_t* read_bytes, size_t reads, const uint64_t* written,
                               const uint64_t* written_bytes, size_t writes) {
  return api(__func__, Need::Context, [&](Call& call) {
    std::vector<Touch> touches;
    for (size_t i = 0; i < reads; ++i) touches.push_back({read[i], read_bytes[i], false});
    for (size_t i = 0; i < writes; ++i) touches.push_back({written[i], written_bytes[i], true});
    for (const auto& touch : touches)
      if (!is_valid(call, touch.address, touch.size)) return CUDA_ERROR_INVALID_VALUE;
    return launch(call, static_cast<CUstream>(stream), "kernel", std::move(touches));
  });
}
