// An event that another process can open, or has opened. The context is current for all of it.
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include "driver_call.h"
#include "owned.h"

namespace tensorferry::cuda {

struct DestroyEvent {
  void operator()(EventHandle event) const noexcept { (void)raw_call<"cuEventDestroy_v2">(event); }
};
using InterprocessEvent = Owned<EventHandle, DestroyEvent>;

inline Result<InterprocessEvent> make_event() {
  EventHandle event = nullptr;
  if (auto made = call<"cuEventCreate">(&event, abi::kEventInterprocess | abi::kEventDisableTiming);
      !made)
    return std::unexpected(made.error());
  return InterprocessEvent(event);
}

}  // namespace tensorferry::cuda
