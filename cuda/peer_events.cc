#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/gpu_error.h>

#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

// More slots than any ring has: an index is the length of a table here.
constexpr std::uint32_t kMostSlots = 1 << 20;

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
                                                     std::span<const SlotHandles> handles) {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  std::unique_ptr<PeerEvents> opened(new PeerEvents(std::move(context)));
  for (const SlotHandles& each : handles) {
    if (each.index >= kMostSlots)
      return failure(ErrorCode::Protocol, "an event slot's index is out of bounds");
    if (each.index >= opened->by_index_.size()) opened->by_index_.resize(each.index + 1);
    SlotEvents& slot = opened->by_index_[each.index];
    if (slot.ready) return failure(ErrorCode::Protocol, "an event slot came twice");
    ++opened->count_;
    for (auto [event, handle] :
         {std::pair(&slot.ready, &each.ready), std::pair(&slot.done, &each.done),
          std::pair(&slot.consumed, &each.consumed)}) {
      auto one = open_event(*handle);
      if (!one) return std::unexpected(one.error());
      *event = *one;
    }
  }
  return opened;
}

PeerEvents::~PeerEvents() {
  const RelaxedCapture relaxed;
  const auto guard = ContextGuard::enter(*context_);
  for (const SlotEvents& slot : by_index_)
    for (EventHandle event : {slot.ready, slot.done, slot.consumed})
      if (event) DestroyEvent()(event);
}

std::optional<SlotEvents> PeerEvents::at(std::uint32_t index) const noexcept {
  if (index >= by_index_.size() || !by_index_[index].ready) return std::nullopt;
  return by_index_[index];
}

}  // namespace tensorferry::cuda
