// One end of a connection, behind endpoint.h. The parts: opening and closing (endpoint.cc), what
// arrives (endpoint_receive.cc), what leaves (endpoint_send.cc), devices (endpoint_devices.cc,
// device_links.h), segments (segment_exchange.h).
#pragma once

#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/endpoint.h>
#include <tensorferry/transport/fork_guard.h>
#include <tensorferry/transport/lease_book.h>
#include <tensorferry/transport/range_table.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "device_links.h"
#include "segment_exchange.h"

namespace tensorferry {

inline void add_once(DeviceStreams& streams, DeviceStream stream) {
  if (std::ranges::find(streams, stream) == streams.end()) streams.push_back(stream);
}

// One hold on memory of either arena; shared by the SharedBytes that are copies of one another.
struct SharedBytes::Holder {
  std::shared_ptr<Endpoint::Impl> owner;
  std::shared_ptr<Segment> segment;    // of the peer's arena
  std::uint64_t lease = 0;             // on it
  BlockId block = 0;                   // of our own arena
  Arena* arena = nullptr;              // which one
  bool moved = false;                  // sent on: no longer ours to give back
  std::shared_ptr<DevicePlace> place;  // of device memory
  ~Holder();

  void use_on(DeviceStream stream);
  DeviceStreams users() const;

 private:
  mutable std::mutex mutex_;
  DeviceStreams users_;  // streams that may be at work on it
};

struct Endpoint::Impl : std::enable_shared_from_this<Endpoint::Impl>, private ForkParticipant {
  Impl(EndRole role, const EndpointOptions& options, ControlSocket socket,
       std::shared_ptr<Segment> ring);
  ~Impl() override = default;

  static Result<std::shared_ptr<Impl>> open(EndRole role, const EndpointOptions& options,
                                            ControlSocket socket, std::shared_ptr<Segment> ring);
  // True in a child of the process that opened this end: nothing here may be touched there.
  bool inherited() const noexcept { return fork_generation() != generation; }
  // Why nothing can be sent any more, if so.
  Result<void> may_send();
  void close(Error why);
  void join();

  Result<SharedBytes> allocate(std::size_t bytes);
  Result<SharedBytes> allocate_on(int ordinal, std::size_t bytes);
  Result<void> send(std::uint64_t tag, std::vector<EndpointTensor>& tensors,
                    const Deadline& deadline);
  Result<std::optional<EndpointMessage>> receive(const Deadline& deadline);

  class Shipment;

  Channel::Options channel_options(std::size_t ring_capacity);
  Result<void> start();
  void serve_peer();
  void bury_peer(Error why);
  Error broken_off();

  // ---- receiving: by the thread that leads the channel's inbox
  // A message that came. Device tensors make it wait for their work.
  struct Arrival {
    EndpointMessage message;
    std::optional<Error> lost;  // why nobody gets it
    bool pending = false;
  };
  using ArrivalPtr = std::shared_ptr<Arrival>;
  Result<void> on_message(const Received& message);
  Result<ArrivalPtr> take(const protocol::UserMessage& user, std::vector<std::uint64_t>& came_home);
  Result<void> take_tensor(const protocol::UserMessage& user, const protocol::TensorRecord& record,
                           std::vector<std::uint64_t>& came_home, EndpointTensor& tensor);
  Result<SharedBytes> take_device(const protocol::UserMessage& user,
                                  const protocol::TensorRecord& record,
                                  std::vector<std::uint64_t>& came_home);
  Result<void> give_back(std::span<const protocol::LeaseRelease> releases,
                         std::vector<std::uint64_t>& came_home);
  Result<void> complete_later(const protocol::UserMessage& user, const ArrivalPtr& arrival);
  ArrivalPtr next_received();
  Result<SharedBytes> take_shared(const protocol::UserMessage& user,
                                  const protocol::MemoryRef& memory,
                                  std::vector<std::uint64_t>& came_home);
  // `home`: of device memory.
  Result<std::optional<SharedBytes>> take_home(const protocol::UserMessage& user,
                                               const protocol::MemoryRef& memory,
                                               std::vector<std::uint64_t>& came_home,
                                               DeviceLinks::Home* home = nullptr);

  // ---- sending
  bool may_move(const EndpointTensor& tensor) const noexcept;
  Result<void> make_movable(EndpointTensor& tensor);
  Result<SharedBytes> copy_of(const EndpointTensor& tensor);
  Result<SharedBytes> copy_on_device(const SharedBytes& memory);
  SharedBytes own(const Block& block, Arena& of, std::shared_ptr<DevicePlace> place = {});
  bool forget(const SharedBytes::Holder& holder);
  void void_loans();

  // ---- around fork(): a child keeps copies of what is held here, and no descriptor of ours
  void before_fork() noexcept override;
  void collect(std::vector<Mapping>& mappings) override;
  void after_fork_parent() noexcept override;
  void after_fork_child() noexcept override;

  const std::uint64_t generation = fork_generation();
  SegmentExchange segments;
  DeviceLinks devices;
  Arena arena;
  Channel channel;
  std::thread control;     // serve_peer()
  std::thread background;  // the inbox's
  std::atomic<bool> receiving{false};

  std::mutex mutex;  // guards what follows; never held while anything blocks
  LeaseBook lent;    // of our arena, to the peer
  RangeTable out;    // of the peer's arena, held here: what the peer may not name again
  std::unordered_map<std::uint64_t, SegmentMap::Range> held;  // the same, by lease
  RangeTable device_out;                                      // of the peer's device memory
  struct DeviceLoan {
    std::shared_ptr<DevicePlace> place;
    std::optional<DeviceStream> own;  // what we did for it is on the place's own stream
  };
  std::unordered_map<std::uint64_t, DeviceLoan> device_loans;  // by lease
  std::deque<ArrivalPtr> received;
  Completion arrived;          // the receiving thread's
  std::optional<Error> ended;  // the peer is gone, or this end was closed
  bool closed = false;         // by this end

  std::shared_ptr<void> fork_registration;  // last: let go of first
};

}  // namespace tensorferry
