#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/stream.h>

#include "driver_call.h"

namespace tensorferry::cuda {

Result<Stream> Stream::create(ContextPtr context) {
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  int least = 0;
  int greatest = 0;  // the smaller number is the higher priority
  if (auto done = call<"cuCtxGetStreamPriorityRange">(&least, &greatest); !done)
    return std::unexpected(done.error());
  StreamHandle handle = nullptr;
  if (auto done = call<"cuStreamCreateWithPriority">(&handle, abi::kStreamNonBlocking, greatest);
      !done)
    return std::unexpected(done.error());
  return Stream(std::move(context), handle);
}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(handle_, other.handle_);
  return *this;
}

Stream::~Stream() {
  if (!handle_) return;
  auto guard = ContextGuard::enter(*context_);
  if (guard) (void)raw_call<"cuStreamDestroy_v2">(handle_);
}

Result<void> record(EventHandle event, StreamHandle stream) {
  return call<"cuEventRecord">(event, stream);
}

Result<void> wait_event(StreamHandle stream, EventHandle event) {
  return call<"cuStreamWaitEvent">(stream, event, 0U);
}

Result<bool> query(EventHandle event) {
  const int code = raw_call<"cuEventQuery">(event);
  if (code == abi::kSuccess) return true;
  if (code == abi::kNotReady) return false;
  return driver_failure("cuEventQuery", code);
}

Result<bool> is_capturing(StreamHandle stream) {
  int status = abi::kCaptureStatusNone;
  if (auto done = call<"cuStreamIsCapturing">(stream, &status); !done)
    return std::unexpected(done.error());
  return status != abi::kCaptureStatusNone;
}

Result<void> record_context(const PrimaryContext& context, EventHandle event) {
  return call<"cuCtxRecordEvent">(context.get(), event);
}

Result<void> record_all(const PrimaryContext& context, EventHandle event) {
  auto recorded = record_context(context, event);
  if (recorded || recorded.error().code != ErrorCode::Unsupported) return recorded;
  return record(event, legacy_stream());
}

Result<void> record_used(const PrimaryContext& context, EventHandle event, StreamHandle stream) {
  auto recorded = record(event, stream);
  if (recorded || is_gpu_error(recorded.error(), GpuErrorKind::Sticky)) return recorded;
  return record_all(context, event);
}

}  // namespace tensorferry::cuda
