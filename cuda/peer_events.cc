#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/gpu_error.h>

#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

Result<EventHandle> open_event(const IpcHandle& handle) {
  EventHandle event = nullptr;
  const int code = raw_call<"cuIpcOpenEventHandle">(&event, handle);
  if (code == abi::kInvalidContext)
    return gpu_failure(GpuErrorKind::PidnsMismatch,
                       "cuIpcOpenEventHandle: CUDA_ERROR_INVALID_CONTEXT (201): it was made in "
                       "this process, or in one of another PID namespace (containers: --pid=host)");
  if (code != abi::kSuccess) return driver_failure("cuIpcOpenEventHandle", code);
  return event;
}

}  // namespace

Result<std::unique_ptr<PeerEvents>> PeerEvents::open(ContextPtr context,
                                                     std::span<const IpcHandle> handles) {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  std::unique_ptr<PeerEvents> opened(new PeerEvents(std::move(context)));
  for (const IpcHandle& handle : handles) {
    auto event = open_event(handle);
    if (!event) return std::unexpected(event.error());
    opened->events_.push_back(*event);
  }
  return opened;
}

PeerEvents::~PeerEvents() {
  const RelaxedCapture relaxed;
  const auto guard = ContextGuard::enter(*context_);
  for (EventHandle event : events_) DestroyEvent()(event);
}

}  // namespace tensorferry::cuda
