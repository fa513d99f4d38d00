// Streams: create, ask, synchronise, destroy.
#include "capture.h"
#include "checker.h"

#include <algorithm>

namespace fakecuda {

CUresult find_stream(Call& call, CUstream handle, std::shared_ptr<Stream>& stream) {
  if (handle == nullptr || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
    if (!call.context)
      if (CUresult missing = find_context(call)) return missing;
    if (handle != CU_STREAM_PER_THREAD) {
      stream = call.context->legacy;
      return CUDA_SUCCESS;
    }
    auto& own = call.context->per_thread[std::this_thread::get_id()];
    if (!own) own = call.driver.engine.add_stream(call.context, call.context->device, 0, 0, false);
    stream = own;
    return CUDA_SUCCESS;
  }
  stream = call.driver.streams.find(handle);
  if (stream) return CUDA_SUCCESS;
  if (call.driver.streams.state(handle) == HandleState::Destroyed)
    report("a stream was used after it was destroyed");
  return CUDA_ERROR_INVALID_HANDLE;
}

namespace {

CUresult create(Call& call, CUstream* handle, unsigned flags, int priority) {
  if (handle == nullptr || (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  priority = std::clamp(priority, kGreatestPriority, 0);
  const auto stream =
      call.driver.engine.add_stream(call.context, call.context->device, flags, priority, false);
  stream->handle = *handle = call.driver.streams.add(stream);
  count(&fakecuda_counters::streams_created);
  return CUDA_SUCCESS;
}

template <class Body>
CUresult with_stream(const char* name, CUstream handle, Body&& body) {
  return api(name, Need::Init, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    return body(call, stream);
  });
}

// After a wait for the legacy stream all blocking streams are done up to here too: it comes after
// them only if it gets an operation.
std::vector<Point> all_before(Call& call, const std::shared_ptr<Stream>& stream) {
  std::vector<Point> points{call.driver.engine.newest(stream)};
  if (!stream->is_legacy) return points;
  for (const auto& other : call.driver.engine.streams())
    if (other->is_blocking() && other->context.lock() == stream->context.lock())
      points.push_back(call.driver.engine.newest(other));
  return points;
}

CUresult query(Call& call, const std::shared_ptr<Stream>& stream) {
  count(&fakecuda_counters::stream_queries);
  if (CUresult bad = refuse_on_capturing(stream)) return bad;
  if (CUresult error = context_error(stream->context)) return error;
  for (const auto& point : all_before(call, stream))
    if (!call.driver.engine.query(call.lock, point, stream->unanswered))
      return CUDA_ERROR_NOT_READY;
  note_seen(call.driver, *stream);
  return context_error(stream->context);
}

CUresult synchronize(Call& call, const std::shared_ptr<Stream>& stream) {
  count(&fakecuda_counters::stream_syncs);
  if (CUresult bad = refuse_on_capturing(stream)) return bad;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  for (const auto& point : all_before(call, stream)) {
    call.driver.engine.wait(call.lock, point);
    if (point.stream) note_seen(call.driver, *point.stream);
  }
  return context_error(stream->context);
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuStreamCreate(CUstream* stream, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) { return create(call, stream, flags, 0); });
}

FAKECUDA_API cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int priority) {
  return api(__func__, Need::Context,
             [&](Call& call) { return create(call, stream, flags, priority); });
}

FAKECUDA_API cuStreamDestroy_v2(CUstream handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto stream = call.driver.streams.take(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    stream->is_destroyed = true;  // what it still has goes on
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamQuery(CUstream handle) {
  return with_stream(__func__, handle,
                     [](Call& call, const auto& stream) { return query(call, stream); });
}

FAKECUDA_API cuStreamSynchronize(CUstream handle) {
  return with_stream(__func__, handle,
                     [](Call& call, const auto& stream) { return synchronize(call, stream); });
}

FAKECUDA_API cuStreamGetPriority(CUstream handle, int* priority) {
  return with_stream(__func__, handle, [&](Call&, const auto& stream) {
    *priority = stream->priority;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  return with_stream(__func__, handle, [&](Call&, const auto& stream) {
    *flags = stream->flags;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamGetId(CUstream handle, unsigned long long* id) {
  return with_stream(__func__, handle, [&](Call&, const auto& stream) {
    *id = stream->id;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamGetDevice(CUstream handle, CUdevice* device) {
  return with_stream(__func__, handle, [&](Call&, const auto& stream) {
    *device = stream->device;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuStreamGetCtx(CUstream handle, CUcontext* context) {
  return with_stream(__func__, handle, [&](Call&, const auto& stream) {
    const auto found = stream->context.lock();
    if (!found) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *context = found->handle;
    return CUDA_SUCCESS;
  });
}
