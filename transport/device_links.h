// The device half of one end of a connection (endpoint.h): what the two ends have told each other
// of their devices, this end's memory there and the peer's.
//
//   offer    "my number 0 is GPU-...; these are events that you record when you send me something
//            of it", with a pidfd
//   segment  "segment 3 of mine lies on my number 0", with its handle
//   refusal  "what you have offered can't be received here: ..."
//
// An end offers a device when it first has memory there, and when the peer has offered it. In a
// message a device goes by the sender's number; segments of the first end are odd, those of the
// second even, so that a range that comes home is known by its name. Who makes events looks at
// them, and no stream ever waits for them: the peer may end before they are complete.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/device_side.h>
#include <tensorferry/transport/event_slots.h>
#include <tensorferry/transport/protocol.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "segment_exchange.h"

namespace tensorferry {

// Thread-safe.
class DeviceLinks {
 public:
  // `side` may be none: then devices are refused. `read_messages` takes in what has come, unless
  // somebody is doing so.
  DeviceLinks(std::shared_ptr<DeviceSide> side, EndRole role, SegmentExchange& control,
              ArenaOptions arena, std::function<void()> read_messages);
  ~DeviceLinks();

  // This end's memory on a device.
  struct Home {
    std::shared_ptr<DevicePlace> place;
    Arena arena;
  };
  // Constant while this lives.
  Result<Home*> home(int ordinal);
  // By the peer's number for it; nullptr where this end has no memory there.
  Home* find_home(const Device& peers);
  std::size_t bytes_in_use() const;

  // ---- sending
  // Appends an event for all that is on the place's own stream. Waits on this thread where there is
  // none to record.
  Result<void> record(const DevicePlace& place, DeviceStream own,
                      std::vector<protocol::EventSlot>& events);
  // They were not sent.
  void take_back(std::span<const protocol::EventSlot> events);
  // The peer saw them complete. Error: Protocol.
  Result<void> seen(std::span<const protocol::EventSlot> events);

  // ---- receiving
  struct Range {
    std::shared_ptr<DevicePlace> place;
    std::shared_ptr<Segment> segment;
    std::span<std::byte> bytes;
  };
  // Errors: Protocol where the peer can't mean it; any other where this process can't reach it.
  Result<Range> resolve(const Device& device, const protocol::MemoryRef& memory);
  Result<std::shared_ptr<DevicePlace>> place_of(const Device& peers);
  // Calls `done` once all are complete, with those that may be recorded anew. Error: Protocol.
  using Complete = std::move_only_function<void(Result<void>, std::vector<protocol::EventSlot>)>;
  Result<void> when_complete(std::span<const protocol::EventSlot> events, Complete done);

  // ---- the control socket
  Result<void> handle(ControlMessage message, Scratch& scratch);

  // ---- the ends
  // This end records none of the peer's events any more, and has closed them: before the peer is
  // told of its end.
  void stop_recording();
  // The peer has ended its connection, and so records nothing any more.
  void peer_is_gone();
  // Its process has.
  bool peer_has_ended() const;
  // What is looked at fails with `why`.
  void cancel(const Error& why);

 private:
  // A device that both ends know, or one of them does yet.
  struct Link {
    std::shared_ptr<DevicePlace> place;
    std::shared_ptr<DeviceEvents> ours;
    std::unique_ptr<RecordedSlots> recorded;  // of ours, by the peer
    std::unique_ptr<Home> home;
    // What the peer has said.
    std::unique_ptr<PeerDeviceEvents> peers;  // under recording_mutex_
    std::unique_ptr<EventSlots> slots;        // of the peer's
    std::optional<Error> refused;
  };
  using LinkPtr = std::shared_ptr<Link>;
  struct PeersSegment {
    Device device;
    Result<std::shared_ptr<Segment>> segment;
  };

  static std::unexpected<Error> no_devices();
  Result<LinkPtr> open(std::shared_ptr<DevicePlace> place);
  Result<void> offer(const Link& link);
  Result<void> record_one(const Link& link, std::uint32_t slot, DeviceStream stream);
  Result<std::shared_ptr<Segment>> grow(DevicePlace& place, std::size_t bytes);
  Result<LinkPtr> link_of(const Device& peers) const;
  Result<LinkPtr> await_link(const Device& peers);
  Result<LinkPtr> accept(const protocol::DeviceOffer& offer);
  Result<void> on_offer(const protocol::DeviceOffer& offer, UniqueFd pidfd);
  Result<void> on_segment(const protocol::DeviceSegment& segment, UniqueFd fd);
  Result<void> on_refused(const protocol::DeviceRefused& refused);

  const std::shared_ptr<DeviceSide> side_;
  SegmentExchange& control_;
  const ArenaOptions arena_options_;
  const std::function<void()> read_messages_;

  std::mutex opening_mutex_;    // one device is opened at a time
  std::mutex recording_mutex_;  // so is one event recorded
  bool may_record_ = true;      // under recording_mutex_
  mutable std::mutex mutex_;    // guards what follows
  std::map<int, LinkPtr> links_;
  std::map<std::int32_t, Result<LinkPtr>> offered_;  // by the peer's number
  std::map<SegmentId, PeersSegment> segments_;       // of the peer
  SegmentId next_segment_;
  UniqueFd peer_process_;
  bool peer_records_ = true;
};

}  // namespace tensorferry
