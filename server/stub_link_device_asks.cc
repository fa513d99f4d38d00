// What a stub asks on the control socket before it works with a GPU: the device, and a probe of it.
// Both may wait for the GPU.
#include <cstring>

#include "stub_link.h"

namespace tensorferry::server {
namespace {

constexpr std::chrono::seconds kAnswerPatience{10};

Deadline patience() { return Clock::now() + kAnswerPatience; }

}  // namespace

// Who is told of a rung without events, or without shared memory, finds all complete that was sent
// before.
Result<void> StubLink::on_probe_report(const protocol::ProbeReport& report) {
  auto lane = find_lane(report.device);
  if (!lane) return std::unexpected(violation("it probes a device that was not offered"));
  auto step = lane->probe().next(report, [this] { return channel_->closed(); });
  if (!step) return std::unexpected(violation(step.error().message));
  if (!step->trial && step->rung != lane->rung()) {
    {
      std::scoped_lock sending(send_mutex_);
      lane->set_rung(step->rung);
    }
    note_rung(*lane, lane->probe().choice());
    (void)lane->gpu().wait(cuda::WaitReason::Probe);
  }
  auto sent = lane->send_step(*socket_, std::move(*step), report.number, patience());
  if (!sent) channel_->close(sent.error());
  return {};
}

Result<void> StubLink::on_device_request(const protocol::DeviceRequest& request) {
  cuda::Uuid uuid;
  if (request.uuid.size() != uuid.bytes.size())
    return std::unexpected(violation("it asks for a device without a UUID"));
  std::memcpy(uuid.bytes.data(), request.uuid.data(), uuid.bytes.size());
  auto device = cuda::device_by_uuid(uuid);
  auto lane = device ? open_lane(device->ordinal) : std::unexpected(device.error());
  if (lane) return {};  // the offer is the answer
  protocol::SegmentDenied denied{request.number, lane.error().code, lane.error().message};
  if (auto sent = socket_->send(denied, -1, patience()); !sent) channel_->close(sent.error());
  return {};
}

}  // namespace tensorferry::server
