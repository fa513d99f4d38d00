// Waiting for the device on a thread of the host: what the path of a request does not do, but for
// the cases that are named here. Each wait is counted ("host_waits" with the label `reason`).
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <functional>
#include <string_view>

namespace tensorferry::cuda {

enum class WaitReason : std::uint8_t {
  Capture,      // the consumer's stream is being captured
  NoStream,     // the consumer said stream=-1: nobody but us may wait
  BareCapsule,  // an API that names no stream
  NoEvents,     // a rung without interprocess events
  Staging,      // a rung that goes through host memory
  HostArray,    // as_numpy() of a device tensor
  Probe,        // at the start
};
inline constexpr std::size_t kWaitReasons = 7;
std::string_view to_string(WaitReason reason) noexcept;

// Waits by looking (a little spinning, then short sleeps) until what the event stands for is done.
// Looks at `given_up` between sleeps: true ends the wait (the peer is dead) with gpu_peer_died.
// Errors also: DeadlineExceeded, gpu_sticky.
Result<void> wait_on_host(EventHandle event, WaitReason reason, const Deadline& deadline = {},
                          const std::function<bool()>& given_up = {});
// How often this process has waited so.
std::uint64_t host_waits(WaitReason reason) noexcept;

}  // namespace tensorferry::cuda
