// What is known of a range of device memory that Python holds: whose it is, after which event it
// may be touched, and which streams may be at work on it.
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/device.h>
#include <tensorferry/transport/protocol.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace tensorferry::stub {

class DeviceLane;
class LocalDevice;

// A stream that was handed our memory; nullptr where a consumer didn't say which: then all that the
// context does may touch it.
using UsedStream = cuda::StreamHandle;
inline constexpr UsedStream kAnyStream = nullptr;

// The GIL guards it, once Python has it.
struct DeviceUse {
  Device device;                             // as the wire names it; kind Cpu: it can't be named
  std::optional<protocol::EventSlot> ready;  // an input's: the server's writing is done then
  std::vector<UsedStream> streams;           // each of them waits for `ready`, or for those before
  // Both from when the memory is first touched; no lane where the server offered none.
  LocalDevice* local = nullptr;
  DeviceLane* lane = nullptr;
  bool being_reached = false;  // by a thread that has let go of the GIL

  void remember(UsedStream stream) {
    if (std::ranges::find(streams, stream) == streams.end()) streams.push_back(stream);
  }
};

}  // namespace tensorferry::stub
