// The part of a StubLink that hears of memory: segments and devices that the server announces, and
// its answers to what was asked.
#include <tensorferry/transport/codec.h>

#include "stub_link.h"

namespace tensorferry::stub {

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
          [&](const auto& offer) { return devices_->on_offer(offer); });
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
