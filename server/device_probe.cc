#include "device_probe.h"

#include <string>
#include <utility>

namespace tensorferry::server {
namespace {

constexpr std::size_t kLongestReason = 300;

}  // namespace

Result<DeviceProbe::Step> DeviceProbe::next(const protocol::ProbeReport& report,
                                            const std::function<bool()>& given_up) {
  if (chosen_ || report.tried != trying_.has_value()) {
    return failure(ErrorCode::Protocol,
                   "it reports on a probe of a device that it was not told to make");
  }
  if (trying_) {
    if (auto went = judge(report, given_up); went)
      ladder_.worked();
    else
      ladder_.failed(went.error());
    end_trial();
  }
  while (const cuda::Attempt* attempt = ladder_.next()) {
    auto trial = begin(*attempt);
    if (trial) return Step{attempt->rung, std::move(*trial)};
    ladder_.failed(trial.error());
  }
  chosen_ = true;
  return Step{ladder_.choice().rung, std::nullopt};
}

void DeviceProbe::end_trial() {
  if (!trying_) return;
  (void)gpu_.wait(cuda::WaitReason::Probe, trying_->stream.get());
  trying_.reset();
}

Result<DeviceProbe::Step::Trial> DeviceProbe::begin(const cuda::Attempt& attempt) {
  const cuda::Chunk& chunk = *sharing_.probe_chunk();
  auto handle = chunk.export_handle();
  if (!handle) return std::unexpected(handle.error());
  auto stream = cuda::Stream::create(chunk.context());
  if (!stream) return std::unexpected(stream.error());
  Step::Trial trial{std::move(*handle), chunk.bytes(), sharing_.next_probe_offset(), 0};
  Trying trying{std::move(*stream), {chunk.base() + trial.offset, {}}, cuda::probe_seed(), {}};
  if (attempt.events) {
    trying.slot = to_stub_->take();
    if (!trying.slot) return failure(ErrorCode::Unavailable, "all events are under way");
    trial.slot = trying.slot->index;
    trying.place.events = cuda::ProbeEvents{*to_stub_->event(*trying.slot), from_stub_->at(0)};
  }
  auto begun = cuda::begin_probe(trying.stream, trying.place, trying.seed,
                                 Clock::now() + cuda::kProbePatience);
  if (!begun) return std::unexpected(begun.error());
  trying_ = std::move(trying);
  return trial;
}

// An event of a probe that failed may never be complete: it is used no more.
Result<void> DeviceProbe::judge(const protocol::ProbeReport& report,
                                const std::function<bool()>& given_up) {
  Result<void> went;
  if (report.failed) {
    went = failure(ErrorCode::Unavailable, std::string(report.error.substr(0, kLongestReason)));
  } else {
    went = cuda::check_probe(trying_->stream, trying_->place, trying_->seed,
                             {report.seen, report.seed}, Clock::now() + cuda::kProbePatience,
                             given_up);
  }
  if (trying_->slot) went ? to_stub_->give_back(*trying_->slot) : to_stub_->retire(*trying_->slot);
  return went;
}

}  // namespace tensorferry::server
