#include "capture.h"

#include "checker.h"

#include <algorithm>

namespace fakecuda {
namespace {

thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

std::vector<std::shared_ptr<Capture>> captures(Call& call) {
  std::vector<std::shared_ptr<Capture>> found;
  for (const auto& stream : call.driver.engine.streams())
    if (stream->capture && stream->capture->origin.lock() == stream)
      found.push_back(stream->capture);
  return found;
}

// As cuThreadExchangeStreamCaptureMode's documentation has it.
bool forbids_unsafe_calls(const Capture& capture) {
  if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  const bool is_own = capture.thread == std::this_thread::get_id();
  if (is_own) return capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
  return thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
         capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

CUresult end_capture(Call& call, const std::shared_ptr<Stream>& stream, CUgraph* graph) {
  const auto capture = stream->capture;
  if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin.lock() != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
      capture->thread != std::this_thread::get_id())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  for (const auto& other : call.driver.engine.streams())
    if (other->capture == capture) other->capture = nullptr;
  *graph = nullptr;
  if (capture->is_invalid) {
    call.driver.graphs.take(capture->handle);
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  *graph = capture->handle;
  return CUDA_SUCCESS;
}

CUstreamCaptureStatus status_of(const Stream& stream) {
  if (!stream.capture) return CU_STREAM_CAPTURE_STATUS_NONE;
  return stream.capture->is_invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

CUresult capture_info(const char* name, CUstream handle, CUstreamCaptureStatus* status,
                      cuuint64_t* id, CUgraph* graph) {
  return api(name, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    *status = status_of(*stream);
    if (id != nullptr) *id = stream->capture ? stream->capture->id : 0;
    if (graph != nullptr) *graph = stream->capture ? stream->capture->handle : nullptr;
    return CUDA_SUCCESS;
  });
}

}  // namespace

CUresult enqueue(Call& call, const std::shared_ptr<Stream>& stream, Operation operation,
                 Point* point) {
  if (stream->capture) {
    if (stream->capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->capture->graph->nodes.push_back(std::move(operation));
    return CUDA_SUCCESS;
  }
  if (stream->is_legacy) {
    for (const auto& capture : captures(call)) {
      const auto origin = capture->origin.lock();
      if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED || !origin->is_blocking() ||
          capture->context.lock() != stream->context.lock())
        continue;
      capture->is_invalid = true;  // the legacy stream would have to wait for what has no time yet
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
  }
  check_order(call.driver, *stream, operation);
  const Point enqueued = call.driver.engine.submit(call.lock, stream, std::move(operation));
  if (point != nullptr) *point = enqueued;
  return CUDA_SUCCESS;
}

CUresult refuse_while_capturing(Call& call) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : captures(call)) {
    if (!forbids_unsafe_calls(*capture)) continue;
    capture->is_invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

CUresult refuse_on_capturing(const std::shared_ptr<Stream>& stream) {
  if (!stream->capture) return CUDA_SUCCESS;
  stream->capture->is_invalid = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult refuse_if_context_captures(Call& call) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : captures(call)) {
    if (capture->context.lock() != call.context) continue;
    capture->is_invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  return api(__func__, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    if (stream->is_legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_shared<Capture>();
    stream->capture->id = next_serial();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->origin = stream;
    stream->capture->context = stream->context;
    stream->capture->handle = call.driver.graphs.add(stream->capture->graph);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  return api(__func__, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    return graph == nullptr ? CUDA_ERROR_INVALID_VALUE : end_capture(call, stream, graph);
  });
}

FAKECUDA_API cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  return api(__func__, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (stream->is_legacy) {
      for (const auto& capture : captures(call))
        if (capture->context.lock() == call.context && capture->origin.lock()->is_blocking() &&
            capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL)
          return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    *status = status_of(*stream);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* status,
                                       cuuint64_t* id, CUgraph* graph,
                                       const CUgraphNode** dependencies, size_t* count) {
  if (dependencies != nullptr) *dependencies = nullptr;
  if (count != nullptr) *count = 0;
  return capture_info(__func__, stream, status, id, graph);
}

FAKECUDA_API cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus* status,
                                       cuuint64_t* id, CUgraph* graph,
                                       const CUgraphNode** dependencies,
                                       const CUgraphEdgeData** edges, size_t* count) {
  if (dependencies != nullptr) *dependencies = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return capture_info(__func__, stream, status, id, graph);
}

FAKECUDA_API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  return api(__func__, Need::Init, [&](Call&) {
    if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    std::swap(*mode, thread_mode);
    return CUDA_SUCCESS;
  });
}
