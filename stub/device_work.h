// What was put on streams for the message that is being made: one event for each stream tells the
// server when all of it is done. Knows nothing of Python.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/protocol.h>

#include <memory>
#include <vector>

#include "device_lane.h"

namespace tensorferry::stub {

// One thread at a time.
class DeviceWork {
 public:
  // Something was put on that stream; `kept` has to live until it is done.
  void add(DeviceLane& lane, UsedStream stream, std::shared_ptr<void> kept = {});
  bool empty() const noexcept { return parts_.empty(); }
  // Records the events, after all of the message's work. May wait: without the GIL. On an error
  // what isn't recorded stays for the next time.
  Result<void> record();
  // What the message names.
  const std::vector<protocol::EventSlot>& ready() const noexcept { return ready_; }
  void clear_ready() noexcept { ready_.clear(); }

 private:
  struct Part {
    DeviceLane* lane;
    UsedStream stream;
    EventSlots::Kept kept;
  };
  std::vector<Part> parts_;
  std::vector<protocol::EventSlot> ready_;
};

}  // namespace tensorferry::stub
