#include "device_links.h"

#include <tensorferry/transport/countdown.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "kept_for_peer.h"
#include "peer_process.h"

namespace tensorferry {
namespace {

// Messages with device tensors that are under way in one direction, before a sender waits for its
// own work.
constexpr std::size_t kEvents = 64;
constexpr std::size_t kMostDevices = 256;
// How long a living peer may take to read its control socket.
constexpr std::chrono::seconds kPatience{30};

Error not_here() {
  return {ErrorCode::Unsupported,
          "this end was opened without devices (EndpointOptions::devices): it has no device "
          "tensors",
          {}};
}

std::unexpected<Error> broken(std::string what) {
  return failure(ErrorCode::Protocol, "the other end " + std::move(what));
}

std::vector<std::string_view> views(const std::vector<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

}  // namespace

DeviceLinks::DeviceLinks(std::shared_ptr<DeviceSide> side, EndRole role, SegmentExchange& control,
                         ArenaOptions arena, std::function<void()> read_messages)
    : side_(std::move(side)),
      control_(control),
      arena_options_(arena),
      read_messages_(std::move(read_messages)),
      next_segment_(role == EndRole::First ? 1 : 2) {}

// A peer that lives may have our memory open, and record our events where this end was closed
// first.
DeviceLinks::~DeviceLinks() {
  std::vector<std::shared_ptr<void>> kept;
  for (const auto& [ordinal, link] : links_) {
    if (peer_records_) kept.emplace_back(link->ours);
    if (!link->home || !link->place->peers_close_first()) continue;
    for (const auto& segment : link->home->arena.segments()) kept.emplace_back(segment);
  }
  if (kept.empty()) return;
  links_.clear();
  offered_.clear();
  keep_for_peer(std::move(peer_process_), std::move(kept));
}

// ------------------------------------------------------------------------------------- our memory
Result<DeviceLinks::Home*> DeviceLinks::home(int ordinal) {
  {
    std::scoped_lock lock(mutex_);
    auto link = links_.find(ordinal);
    if (link != links_.end() && link->second->home) return link->second->home.get();
  }
  if (!side_) return std::unexpected(not_here());
  auto place = side_->open(ordinal);
  if (!place) return std::unexpected(place.error());
  auto link = open(*place);
  if (!link) return std::unexpected(link.error());
  std::scoped_lock lock(mutex_);
  auto& home = (*link)->home;
  if (!home) {
    auto make = [this, where = place->get()](std::size_t bytes) { return grow(*where, bytes); };
    home.reset(new Home{*place, Arena(arena_options_, make)});
  }
  return home.get();
}

Result<std::shared_ptr<Segment>> DeviceLinks::grow(DevicePlace& place, std::size_t bytes) {
  SegmentId id;
  {
    std::scoped_lock lock(mutex_);
    id = next_segment_;
    next_segment_ += 2;
  }
  auto segment = place.make_segment(id, bytes);
  if (!segment) return segment;
  auto handle = place.export_segment(**segment);
  if (!handle) return std::unexpected(handle.error());
  const protocol::DeviceSegment message{id,
                                        protocol::SegmentRole::Host,
                                        {DeviceKind::Cuda, place.ordinal()},
                                        (*segment)->bytes(),
                                        0,
                                        handle->bytes};
  auto sent = control_.send(message, handle->fd.get(), Clock::now() + kPatience);
  if (!sent) return std::unexpected(sent.error());
  return segment;
}

Result<DeviceLinks::LinkPtr> DeviceLinks::open(std::shared_ptr<DevicePlace> place) {
  std::scoped_lock opening(opening_mutex_);
  {
    std::scoped_lock lock(mutex_);
    if (auto link = links_.find(place->ordinal()); link != links_.end()) return link->second;
  }
  auto events = place->make_events(kEvents);
  if (!events) return std::unexpected(events.error());
  auto link = std::make_shared<Link>();
  link->place = std::move(place);
  link->ours = std::move(*events);
  link->recorded = std::make_unique<RecordedSlots>(link->ours->size());
  if (auto offered = offer(*link); !offered) return std::unexpected(offered.error());
  std::scoped_lock lock(mutex_);
  links_.emplace(link->place->ordinal(), link);
  return link;
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

// ---------------------------------------------------------------------------------------- sending
Result<void> DeviceLinks::record(const DevicePlace& place, DeviceStream own,
                                 std::vector<protocol::EventSlot>& events) {
  LinkPtr link;
  EventSlots* slots = nullptr;
  {
    std::scoped_lock lock(mutex_);
    link = links_.at(place.ordinal());
    if (link->refused) return std::unexpected(*link->refused);
    slots = link->slots.get();
  }
  std::optional<EventSlots::Taken> taken;
  if (slots) taken = slots->take();
  if (slots && !taken) {
    read_messages_();
    taken = slots->take();
  }
  // Not offered yet, or all under way: the message goes when the work is done.
  if (!taken) return link->place->wait();
  if (auto recorded = record_one(*link, taken->slot, own); !recorded) {
    slots->give_back(*taken);
    return recorded;
  }
  events.push_back({{DeviceKind::Cuda, place.ordinal()}, taken->slot, taken->generation});
  return {};
}

Result<void> DeviceLinks::record_one(const Link& link, std::uint32_t slot, DeviceStream stream) {
  std::scoped_lock lock(recording_mutex_);
  if (!may_record_) return failure(ErrorCode::Closed, "the connection has ended");
  return link.peers->record(slot, stream);
}

void DeviceLinks::take_back(std::span<const protocol::EventSlot> events) {
  for (const protocol::EventSlot& event : events) {
    std::scoped_lock lock(mutex_);
    links_.at(event.device.id)->slots->give_back({event.slot, event.generation});
  }
}

Result<void> DeviceLinks::seen(std::span<const protocol::EventSlot> events) {
  for (const protocol::EventSlot& event : events) {
    auto link = await_link(event.device);
    EventSlots* slots = nullptr;
    {
      std::scoped_lock lock(mutex_);
      if (link) slots = (*link)->slots.get();
    }
    if (!slots || !slots->seen(event.slot, event.generation))
      return broken("gives an event back that it doesn't have");
  }
  return {};
}

// -------------------------------------------------------------------------------------- receiving
// The error is Protocol for a device that was not offered, and else why it can't be used here.
Result<DeviceLinks::LinkPtr> DeviceLinks::link_of(const Device& peers) const {
  std::scoped_lock lock(mutex_);
  auto link = offered_.find(peers.id);
  if (peers.kind != DeviceKind::Cuda || link == offered_.end())
    return broken("names a device that it has not offered");
  return link->second;
}

// The same once the offer was taken in: it was sent before what names it.
Result<DeviceLinks::LinkPtr> DeviceLinks::await_link(const Device& peers) {
  auto here = control_.take_in_until([&] {
    std::scoped_lock lock(mutex_);
    return offered_.contains(peers.id);
  });
  if (!here) return std::unexpected(here.error());
  return link_of(peers);
}

Result<std::shared_ptr<DevicePlace>> DeviceLinks::place_of(const Device& peers) {
  auto link = await_link(peers);
  if (!link) return std::unexpected(link.error());
  return (*link)->place;
}

std::size_t DeviceLinks::bytes_in_use() const {
  std::scoped_lock lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [ordinal, link] : links_)
    if (link->home) bytes += link->home->arena.bytes_in_use();
  return bytes;
}

DeviceLinks::Home* DeviceLinks::find_home(const Device& peers) {
  auto link = await_link(peers);
  std::scoped_lock lock(mutex_);
  return link ? (*link)->home.get() : nullptr;
}

Result<DeviceLinks::Range> DeviceLinks::resolve(const Device& device,
                                                const protocol::MemoryRef& memory) {
  auto find = [&]() -> const PeersSegment* {
    auto segment = segments_.find(memory.place);
    return segment == segments_.end() ? nullptr : &segment->second;
  };
  auto here = control_.take_in_until([&] {
    std::scoped_lock lock(mutex_);
    return find() != nullptr;
  });
  if (!here) return std::unexpected(here.error());
  auto place = place_of(device);
  if (!place) return std::unexpected(place.error());
  std::scoped_lock lock(mutex_);
  const PeersSegment* found = find();
  if (!found || found->device != device)
    return broken("names device segment " + std::to_string(memory.place) +
                  ", which it has not sent of that device");
  if (!found->segment) return std::unexpected(found->segment.error());
  const Segment& segment = **found->segment;
  if (!segment.contains(memory.offset, memory.bytes))
    return broken("names a range that leaves device segment " + std::to_string(memory.place));
  return Range{*place, *found->segment, {segment.data() + memory.offset, memory.bytes}};
}

Result<void> DeviceLinks::when_complete(std::span<const protocol::EventSlot> events,
                                        Complete done) {
  if (events.empty()) {
    done({}, {});
    return {};
  }
  std::vector<LinkPtr> links;
  std::vector<protocol::EventSlot> ours;  // by our number, as we say that we saw them
  for (const protocol::EventSlot& event : events) {
    auto link = await_link(event.device);
    if (!link) return broken("names an event of a device that is not shared");
    if (auto taken = (*link)->recorded->take(event); !taken) return taken;
    ours.push_back({{DeviceKind::Cuda, (*link)->place->ordinal()}, event.slot, event.generation});
    links.push_back(std::move(*link));
  }
  auto all = std::make_shared<Countdown>(
      events.size(), [links, ours, done = std::move(done)](Result<void> how) mutable {
        if (!how) return done(std::move(how), {});
        for (std::size_t i = 0; i < links.size(); ++i) links[i]->recorded->give_back(ours[i]);
        done({}, std::move(ours));
      });
  for (std::size_t i = 0; i < links.size(); ++i)
    links[i]->ours->watch(ours[i].slot,
                          [all](Result<void> how) { all->part_done(std::move(how)); });
  return {};
}

// ----------------------------------------------------------------------------- the control socket
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
  if (!side_) return std::unexpected(not_here());
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

// --------------------------------------------------------------------------------------- the ends
void DeviceLinks::stop_recording() {
  std::vector<LinkPtr> links;
  {
    std::scoped_lock lock(mutex_);
    for (const auto& [ordinal, link] : links_) links.push_back(link);
  }
  std::scoped_lock lock(recording_mutex_);
  may_record_ = false;
  for (const LinkPtr& link : links) link->peers.reset();
}

void DeviceLinks::peer_is_gone() {
  std::scoped_lock lock(mutex_);
  peer_records_ = false;
}

bool DeviceLinks::peer_has_ended() const {
  std::scoped_lock lock(mutex_);
  return has_ended(peer_process_);
}

void DeviceLinks::cancel(const Error& why) {
  std::vector<std::shared_ptr<DeviceEvents>> all;
  {
    std::scoped_lock lock(mutex_);
    for (const auto& [ordinal, link] : links_) all.push_back(link->ours);
  }
  for (const auto& events : all) events->cancel(why);
}

}  // namespace tensorferry
