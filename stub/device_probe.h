// Which rung works between the server and this process on one device: the stub's half of trying
// (cuda/probe.h). The server says what to try, and judges. Knows nothing of Python.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/probe.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/cuda/stream.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "local_device.h"
#include "replies.h"

namespace tensorferry::stub {

// What a trial showed: the answer, or why there is none.
using TrialOutcome = Result<cuda::ProbeAnswer>;

class DeviceProbe {
 public:
  // Tells the server how the last trial went (none before the first); what comes next.
  using Report = std::function<Result<ProbeTrial>(const std::optional<TrialOutcome>&)>;
  struct Rings {
    std::span<const cuda::IpcHandle> to_stub, from_stub;
  };

  DeviceProbe(const LocalDevice& local, Rings rings) : local_(local), rings_(rings) {}

  // The rung that the server has chosen in the end. Waits for the device, up to some seconds for
  // each rung that doesn't work. Errors: the server's.
  Result<cuda::Rung> climb(const Report& report);
  // Opened on the way; none where they couldn't be.
  Result<void> open_events();
  std::unique_ptr<cuda::PeerEvents> to_stub, from_stub;

 private:
  TrialOutcome run(ProbeTrial& trial);

  const LocalDevice& local_;
  const Rings rings_;
  // Of the last trial: used until the server has judged it.
  std::shared_ptr<cuda::Chunk> chunk_;
  std::optional<cuda::Stream> stream_;
};

}  // namespace tensorferry::stub
