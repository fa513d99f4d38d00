// What a stub asks on the control socket that concerns GPUs: a device, a probe of it, the bytes of
// an input. All of it may wait for the GPU.
#include <cstring>

#include "device_copies.h"
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

// The stub holds the lease until it has the answer, so that the memory stays as it is meanwhile.
Result<void> StubLink::on_read_device(const protocol::ReadDevice& request) {
  std::optional<LeaseBook::Range> lent;
  std::shared_ptr<DeviceLane> lane;
  {
    std::scoped_lock lock(mutex_);
    lent = lent_.find(request.memory.lease);
    auto loan = device_loans_.find(request.memory.lease);
    if (loan != device_loans_.end()) lane = loan->second.lane;
  }
  const protocol::MemoryRef& memory = request.memory;
  if (!lane || !lent || !lent->contains(memory.place, memory.offset, memory.bytes))
    return std::unexpected(violation("it asks for device memory that it doesn't hold"));
  auto copy = read_device(*lane, lent->data + (memory.offset - lent->offset), memory.bytes);
  protocol::DeviceRead answer;
  answer.reply_to = request.number;
  if (copy) {
    answer.memory = *copy;
  } else {
    answer.failed = true;
    answer.code = copy.error().code;
    answer.error = copy.error().message;
  }
  if (auto sent = socket_->send(answer, -1, patience()); !sent) channel_->close(sent.error());
  return {};
}

Result<protocol::MemoryRef> StubLink::read_device(DeviceLane& lane, const std::byte* data,
                                                  std::size_t bytes) {
  auto block = host_->arena().allocate(bytes);
  if (!block) return std::unexpected(block.error());
  if (auto copied = copy_to_host(lane.gpu(), {block->data, bytes}, data); !copied) {
    host_->arena().release(block->id);
    return std::unexpected(copied.error());
  }
  std::scoped_lock lock(mutex_);
  const std::uint64_t lease =
      lent_.lend_held({block->id, block->segment, block->offset, bytes, block->data});
  return protocol::MemoryRef{protocol::MemoryKind::Segment, block->segment, block->offset, bytes,
                             lease};
}

}  // namespace tensorferry::server
