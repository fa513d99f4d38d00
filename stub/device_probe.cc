#include "device_probe.h"

#include <utility>

namespace tensorferry::stub {
namespace {

// A stream that waits for an event which never comes is at work on the memory for good: neither
// can be given back.
struct Stuck {
  std::shared_ptr<cuda::Chunk> chunk;
  std::optional<cuda::Stream> stream;
};
void abandon(Stuck stuck) { new Stuck(std::move(stuck)); }

}  // namespace

Result<void> DeviceProbe::open_events() {
  if (to_stub) return {};
  auto ours = cuda::PeerEvents::open(local_.context(), rings_.from_stub);
  if (!ours) return std::unexpected(ours.error());
  auto theirs = cuda::PeerEvents::open(local_.context(), rings_.to_stub);
  if (!theirs) return std::unexpected(theirs.error());
  from_stub = std::move(*ours);
  to_stub = std::move(*theirs);
  return {};
}

Result<cuda::Rung> DeviceProbe::climb(const Report& report) {
  const cuda::RelaxedCapture relaxed;  // the model may be capturing a graph
  std::optional<TrialOutcome> outcome;
  cuda::Rung tried = cuda::Rung::NoGpu;
  while (true) {
    auto trial = report(outcome);
    if (!trial) return std::unexpected(trial.error());
    const bool worked = trial->chosen && trial->rung == tried;
    if (stream_ && !worked) abandon({std::move(chunk_), std::move(stream_)});
    stream_.reset();
    chunk_.reset();
    if (trial->chosen) return trial->rung;
    tried = trial->rung;
    outcome = run(*trial);
  }
}

TrialOutcome DeviceProbe::run(ProbeTrial& trial) {
  const bool events = has_events(trial.rung);
  if (events) {
    if (auto opened = open_events(); !opened) return std::unexpected(opened.error());
  }
  auto chunk =
      cuda::Chunk::open(local_.context(), std::move(trial.chunk.handle), trial.chunk.bytes);
  if (!chunk) return std::unexpected(chunk.error());
  auto stream = cuda::Stream::create(local_.context());
  if (!stream) return std::unexpected(stream.error());
  if (!(*chunk)->contains(trial.offset, cuda::kProbeBytes))
    return failure(ErrorCode::Protocol, "the probe leaves its chunk");
  cuda::ProbePlace place{(*chunk)->base() + trial.offset, {}};
  if (events) {
    const auto ready = to_stub->at(trial.slot), done = from_stub->at(0);
    if (!ready || !done) return failure(ErrorCode::Protocol, "the probe names no event");
    place.events = cuda::ProbeEvents{*ready, *done};
  }
  chunk_ = std::move(*chunk);
  stream_ = std::move(*stream);
  return cuda::answer_probe(*stream_, place, cuda::probe_seed(),
                            Clock::now() + cuda::kProbePatience);
}

}  // namespace tensorferry::stub
