// What one stub can do with a GPU's memory, found out by trying: the server's half (cuda/probe.h).
// The stub asks when its model first touches the device, and reports on each rung that it was told
// to try.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/probe.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/protocol.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "gpu_sharing.h"

namespace tensorferry::server {

// For the thread that reads the stub's control socket.
class DeviceProbe {
 public:
  // The rings live longer; none on a ladder without events.
  DeviceProbe(Gpu& gpu, const GpuSharing& sharing, cuda::RungLadder ladder,
              cuda::EventRing* to_stub, const cuda::EventRing* from_stub)
      : gpu_(gpu),
        sharing_(sharing),
        ladder_(std::move(ladder)),
        to_stub_(to_stub),
        from_stub_(from_stub) {}
  ~DeviceProbe() { end_trial(); }
  DeviceProbe(const DeviceProbe&) = delete;
  DeviceProbe& operator=(const DeviceProbe&) = delete;

  struct Step {
    cuda::Rung rung = cuda::Rung::NoGpu;
    // What to try it on; none: that rung is chosen.
    struct Trial {
      cuda::ChunkHandle chunk;
      std::size_t chunk_bytes = 0;
      std::size_t offset = 0;
      std::uint32_t slot = 0;
    };
    std::optional<Trial> trial;
  };
  // What follows on the report. Waits for the device, up to some seconds. Error Protocol for a
  // report that doesn't belong to what the stub was told.
  Result<Step> next(const protocol::ProbeReport& report, const std::function<bool()>& given_up);

  const cuda::Attempt* attempt() const noexcept { return ladder_.next(); }
  void failed(const Error& why) { ladder_.failed(why); }
  // Once nothing is left to try.
  cuda::RungChoice choice() const { return ladder_.choice(); }

 private:
  struct Trying {
    cuda::Stream stream;
    cuda::ProbePlace place;
    std::uint64_t seed = 0;
    std::optional<cuda::EventSlot> slot;
  };
  Result<Step::Trial> begin(const cuda::Attempt& attempt);
  Result<void> judge(const protocol::ProbeReport& report, const std::function<bool()>& given_up);

  // What we put there ourselves is done, so that the memory may go.
  void end_trial();

  Gpu& gpu_;
  const GpuSharing& sharing_;
  cuda::RungLadder ladder_;
  cuda::EventRing* const to_stub_;
  const cuda::EventRing* const from_stub_;
  std::optional<Trying> trying_;
  bool chosen_ = false;
};

}  // namespace tensorferry::server
