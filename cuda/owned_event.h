// An event that is ours to destroy. The context is current for all of it.
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include "driver_call.h"
#include "owned.h"

namespace tensorferry::cuda {

struct DestroyEvent {
  void operator()(EventHandle event) const noexcept { (void)raw_call<"cuEventDestroy_v2">(event); }
};
using Event = Owned<EventHandle, DestroyEvent>;

// `interprocess`: another process can open it.
inline Result<Event> make_event(bool interprocess) {
  const unsigned flags = abi::kEventDisableTiming | (interprocess ? abi::kEventInterprocess : 0U);
  EventHandle event = nullptr;
  if (auto made = call<"cuEventCreate">(&event, flags); !made) return std::unexpected(made.error());
  return Event(event);
}

}  // namespace tensorferry::cuda
