// What the two ends tell each other of their devices, over the control socket.
#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "device_links.h"
#include "peer_process.h"

namespace tensorferry {
namespace {

constexpr std::size_t kMostDevices = 256;
// How long a living peer may take to read its control socket.
constexpr std::chrono::seconds kPatience{30};

std::vector<std::string_view> views(const std::vector<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

}  // namespace

std::unexpected<Error> DeviceLinks::no_devices() {
  return failure(ErrorCode::Unsupported,
                 "this end was opened without devices (EndpointOptions::devices): it has no device "
                 "tensors");
}

Result<void> DeviceLinks::offer(const Link& link) {
  auto handles = link.ours->handles();
  if (!handles) return std::unexpected(handles.error());
  const auto events = views(*handles);
  protocol::DeviceOffer offer;
  offer.device = {DeviceKind::Cuda, link.place->ordinal()};
  offer.uuid = link.place->uuid();
  offer.from_stub = events;
  const UniqueFd process = pidfd_of_this_process();
  return control_.send(offer, process.get(), Clock::now() + kPatience);
}

Result<void> DeviceLinks::handle(ControlMessage message, Scratch& scratch) {
  auto with = [&]<class Message>(auto&& use) -> Result<void> {
    auto decoded = decode_private<Message>(message.body, scratch);
    if (!decoded) return std::unexpected(decoded.error());
    return use(*decoded);
  };
  switch (message.kind) {
    case protocol::ControlKind::DeviceOffer:
      return with.operator()<protocol::DeviceOffer>(
          [&](const auto& offer) { return on_offer(offer, std::move(message.fd)); });
    case protocol::ControlKind::DeviceSegment:
      return with.operator()<protocol::DeviceSegment>(
          [&](const auto& segment) { return on_segment(segment, std::move(message.fd)); });
    case protocol::ControlKind::DeviceRefused:
      return with.operator()<protocol::DeviceRefused>(
          [&](const auto& refused) { return on_refused(refused); });
    default:
      return broken("sent a control message of kind " +
                    std::to_string(static_cast<unsigned>(message.kind)) + ", which it may not");
  }
}

Result<DeviceLinks::LinkPtr> DeviceLinks::accept(const protocol::DeviceOffer& offer) {
  if (!side_) return no_devices();
  auto place = side_->open(offer.uuid);
  if (!place) return std::unexpected(place.error());
  auto link = open(*place);
  if (!link) return link;
  // Where they can't be opened the sender waits for its own work, as where there are none.
  auto events = (*place)->open_events(offer.from_stub);
  if (!events) return link;
  const std::size_t count = (*events)->size();
  {
    std::scoped_lock lock(recording_mutex_);
    if (may_record_) (*link)->peers = std::move(*events);
  }
  std::scoped_lock lock(mutex_);
  (*link)->slots = std::make_unique<EventSlots>(count);
  return link;
}

Result<void> DeviceLinks::on_offer(const protocol::DeviceOffer& offer, UniqueFd pidfd) {
  const auto is_no_handle = [](std::string_view one) {
    return one.size() != protocol::kHandleBytes;
  };
  if (offer.device.kind != DeviceKind::Cuda || offer.uuid.size() != protocol::kUuidBytes ||
      std::ranges::any_of(offer.from_stub, is_no_handle))
    return broken("offers a device that is none");
  {
    std::scoped_lock lock(mutex_);
    if (offered_.contains(offer.device.id)) return broken("offers a device twice");
    if (offered_.size() == kMostDevices) return broken("offers more devices than there are");
    if (!peer_process_) peer_process_ = std::move(pidfd);
  }
  auto link = accept(offer);
  {
    std::scoped_lock lock(mutex_);
    offered_.emplace(offer.device.id, link);
  }
  if (link) return {};
  const protocol::DeviceRefused refused{offer.uuid, link.error().code, link.error().message};
  return control_.send(refused, -1, Clock::now() + kPatience);
}

Result<void> DeviceLinks::on_segment(const protocol::DeviceSegment& segment, UniqueFd fd) {
  auto link = link_of(segment.device);
  if (!link && link.error().code == ErrorCode::Protocol) return std::unexpected(link.error());
  const bool by_handle = segment.handle.size() == protocol::kHandleBytes;
  if (segment.role != protocol::SegmentRole::Host || segment.reply_to != 0 ||
      (!by_handle && (!segment.handle.empty() || !fd)))
    return broken("sent a device segment that is none");
  {
    std::scoped_lock lock(mutex_);
    if (segments_.contains(segment.segment) || segment.segment % 2 == next_segment_ % 2)
      return broken("sent a device segment twice, or under a number of ours");
  }
  Result<std::shared_ptr<Segment>> opened = nullptr;
  if (link) {
    opened = (*link)->place->open_segment(
        segment.segment, {std::move(fd), std::string(segment.handle)}, segment.bytes);
  } else {
    opened = std::unexpected(link.error());
  }
  std::scoped_lock lock(mutex_);
  segments_.emplace(segment.segment, PeersSegment{segment.device, std::move(opened)});
  return {};
}

Result<void> DeviceLinks::on_refused(const protocol::DeviceRefused& refused) {
  std::scoped_lock lock(mutex_);
  for (const auto& [ordinal, link] : links_) {
    if (link->place->uuid() != refused.uuid) continue;
    link->refused = Error{refused.code,
                          "the other end can't receive tensors of device " +
                              std::to_string(ordinal) + ": " + std::string(refused.error),
                          {}};
    return {};
  }
  return broken("refuses a device that it was not offered");
}

}  // namespace tensorferry
