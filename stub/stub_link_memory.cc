// The part of a StubLink that hears of memory: segments and devices that the server announces, and
// its answers to what was asked.
#include <tensorferry/transport/codec.h>

#include "stub_link.h"

namespace tensorferry::stub {
namespace {

constexpr std::chrono::seconds kPatience{30};

}  // namespace

void StubLink::make_devices() {
  DevicePeer peer;
  peer.ask_for_device = [this](const cuda::Uuid& uuid) { return ask_for_device(uuid); };
  peer.ask_for_chunk = [this](Device device, std::size_t bytes) -> Result<ClosedChunk> {
    const std::uint64_t number = replies_.next_number();
    if (auto sent = socket_.send(protocol::SegmentRequest{number, bytes, device}); !sent)
      return std::unexpected(sent.error());
    return replies_.wait<ClosedChunk>(number, Clock::now() + kPatience);
  };
  peer.say_dropped = [this](SegmentId id) { (void)socket_.send(protocol::SegmentDropped{id}); };
  peer.release = [this](std::uint64_t lease, std::span<const protocol::EventSlot> after) {
    channel_->release_later(lease, after);
  };
  peer.read_messages = [this] { (void)channel_->inbox().poll(); };
  peer.report_probe = [this](Device device, const std::optional<TrialOutcome>& outcome) {
    return report_probe(device, outcome);
  };
  devices_ = std::make_unique<Devices>(std::move(peer));
}

void StubLink::make_pins() {
  pins_ = std::make_unique<MemoryPins>(
      [this] {
        auto mapped = host_segments_.all();
        for (auto& own : arena_->segments()) mapped.push_back(std::move(own));
        return mapped;
      },
      [this](const std::string& why) {
        (void)log(protocol::LogLevel::Warning, "tensorferry", 0,
                  "TENSORFERRY_PIN: shared memory can't be pinned: " + why);
      });
}

Result<ProbeTrial> StubLink::report_probe(Device device,
                                          const std::optional<TrialOutcome>& outcome) {
  protocol::ProbeReport report;
  report.number = replies_.next_number();
  report.device = device;
  report.tried = outcome.has_value();
  report.failed = outcome && !*outcome;
  if (report.failed) report.error = outcome->error().message;
  if (outcome && *outcome) {
    report.seen = (*outcome)->seen;
    report.seed = (*outcome)->seed;
  }
  if (auto sent = socket_.send(report); !sent) return std::unexpected(sent.error());
  return replies_.wait<ProbeTrial>(report.number, Clock::now() + kPatience);
}

Result<void> StubLink::on_probe_step(const protocol::ProbeStep& step, UniqueFd fd) {
  if (!cuda::is_rung(step.rung))
    return failure(ErrorCode::Protocol, "a probe of an unknown rung came");
  ProbeTrial trial{static_cast<cuda::Rung>(step.rung), step.chosen, step.slot, step.offset, {}};
  if (!step.chosen) {
    protocol::DeviceSegment lent;
    lent.bytes = step.bytes;
    lent.handle = step.handle;
    auto chunk = closed_chunk(lent, std::move(fd));
    if (!chunk) return std::unexpected(chunk.error());
    trial.chunk = std::move(*chunk);
  }
  replies_.answer(step.reply_to, std::move(trial));
  return {};
}

// The offer names no number: it may come by itself, too.
Result<void> StubLink::ask_for_device(const cuda::Uuid& uuid) {
  const std::uint64_t number = replies_.next_number();
  {
    std::scoped_lock lock(asked_mutex_);
    asked_device_ = {number, uuid};
  }
  const std::string_view name(reinterpret_cast<const char*>(uuid.bytes.data()), uuid.bytes.size());
  if (auto sent = socket_.send(protocol::DeviceRequest{number, name}); !sent) return sent;
  auto offered = replies_.wait<Offered>(number, Clock::now() + kPatience);
  if (offered) return {};
  (void)log(protocol::LogLevel::Warning, "tensorferry", 0,
            "tensors of " + to_string(uuid) +
                " cross by way of host memory, since the server shares none there: " +
                offered.error().message);
  return std::unexpected(offered.error());
}

Result<void> StubLink::on_offer(const protocol::DeviceOffer& offer) {
  if (auto known = devices_->on_offer(offer); !known) return known;
  std::scoped_lock lock(asked_mutex_);
  if (asked_device_ && devices_->find(asked_device_->second)) {
    replies_.answer(asked_device_->first, Offered{});
    asked_device_.reset();
  }
  return {};
}

Result<InputMemory> StubLink::read_device(const InputMemory& input) {
  const std::uint64_t number = replies_.next_number();
  const protocol::MemoryRef memory{protocol::MemoryKind::DeviceChunk, input.segment, input.offset,
                                   input.bytes, input.lease};
  if (auto sent = socket_.send(protocol::ReadDevice{number, memory}); !sent)
    return std::unexpected(sent.error());
  auto copy = replies_.wait<protocol::MemoryRef>(number, {});
  if (!copy) return std::unexpected(copy.error());
  return read_host_memory(*copy, [this](const protocol::MemoryRef& at) {
    return resolve(at.place, at.offset, at.bytes);
  });
}

Result<void> StubLink::on_segment(const protocol::Segment& segment, UniqueFd fd) {
  auto mapped = Segment::map(segment.segment, std::move(fd), segment.bytes);
  if (!mapped) return std::unexpected(mapped.error());
  if (segment.role == protocol::SegmentRole::Stub) {
    replies_.answer(segment.reply_to, std::move(*mapped));
    return {};
  }
  std::scoped_lock lock(mutex_);
  host_segments_.insert(std::move(*mapped));
  segments_changed_.notify_all();
  return {};
}

Result<void> StubLink::on_device_segment(const protocol::DeviceSegment& segment, UniqueFd fd) {
  if (segment.role == protocol::SegmentRole::Host)
    return devices_->on_segment(segment, std::move(fd));
  auto chunk = closed_chunk(segment, std::move(fd));
  if (!chunk) return std::unexpected(chunk.error());
  replies_.answer(segment.reply_to, std::move(*chunk));
  return {};
}

Result<void> StubLink::on_memory(ControlMessage& message, Scratch& scratch) {
  // Decodes the message, and does something with it.
  auto handle = [&]<class Message>(auto&& what) -> Result<void> {
    auto decoded = decode_private<Message>(message.body, scratch);
    if (!decoded) return std::unexpected(decoded.error());
    return what(*decoded);
  };
  using protocol::ControlKind;
  switch (message.kind) {
    case ControlKind::Segment:
      return handle.operator()<protocol::Segment>(
          [&](const auto& segment) { return on_segment(segment, std::move(message.fd)); });
    case ControlKind::DeviceSegment:
      return handle.operator()<protocol::DeviceSegment>(
          [&](const auto& segment) { return on_device_segment(segment, std::move(message.fd)); });
    case ControlKind::DeviceOffer:
      return handle.operator()<protocol::DeviceOffer>(
          [&](const auto& offer) { return on_offer(offer); });
    case ControlKind::ProbeStep:
      return handle.operator()<protocol::ProbeStep>(
          [&](const auto& step) { return on_probe_step(step, std::move(message.fd)); });
    case ControlKind::SegmentDropped:
      return handle.operator()<protocol::SegmentDropped>([&](const auto& dropped) -> Result<void> {
        host_segments_.erase(dropped.segment);
        devices_->on_dropped(dropped.segment);
        return {};
      });
    case ControlKind::SegmentDenied:
      return handle.operator()<protocol::SegmentDenied>([&](const auto& denied) -> Result<void> {
        replies_.answer(denied.reply_to, failure(denied.code, std::string(denied.error)));
        return {};
      });
    case ControlKind::DeviceRead:
      return handle.operator()<protocol::DeviceRead>([&](const auto& read) -> Result<void> {
        if (read.failed)
          replies_.answer(read.reply_to, failure(read.code, std::string(read.error)));
        else
          replies_.answer(read.reply_to, read.memory);
        return {};
      });
    default:
      return failure(ErrorCode::Protocol, "an unexpected control message came");
  }
}

}  // namespace tensorferry::stub
