#include "device_links.h"

#include <tensorferry/transport/countdown.h>

#include <chrono>
#include <utility>

#include "kept_for_peer.h"
#include "peer_process.h"

namespace tensorferry {
namespace {

// Messages with device tensors that are under way in one direction, before a sender waits for its
// own work.
constexpr std::size_t kEvents = 64;
// How long a living peer may take to read its control socket.
constexpr std::chrono::seconds kPatience{30};

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
  if (!side_) return no_devices();
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
