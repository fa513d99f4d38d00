// The devices that this stub knows: what the server offered, by its number, and what this process
// has opened, by its own ordinal. Knows nothing of Python.
#pragma once

#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/protocol.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "device_lane.h"

namespace tensorferry::stub {

// Thread-safe, but for DeviceUse (the GIL).
class Devices {
 public:
  explicit Devices(DevicePeer peer) : peer_(std::move(peer)) {}

  // ---- from the thread that reads the control socket
  Result<void> on_offer(const protocol::DeviceOffer& offer);
  // One of the server's chunks. Error: Protocol.
  Result<void> on_segment(const protocol::DeviceSegment& segment, UniqueFd fd);
  void on_dropped(SegmentId segment);

  // ---- from whoever reads the ring
  // Error Protocol for an event that was not under way.
  Result<void> seen(std::span<const protocol::EventSlot> events);

  // ---- from Python's threads, where they are about to touch memory there
  // The device of that ordinal. Makes its context, unless the model has done so. Errors: those of
  // cuda::Driver::get(), gpu_no_device, gpu_oom.
  Result<LocalDevice*> local(int ordinal);
  // The lane of a device that the server named, opened. Error gpu_no_device where this process
  // can't see it.
  Result<DeviceLane*> lane(Device name);
  // The lane of a device of ours, which the server is asked for; nullptr where it has none to
  // offer.
  Result<DeviceLane*> lane_at(int ordinal);
  // This process's ordinal for it. Loads the driver and makes no context.
  Result<int> ordinal_of(Device name);

  // The lane that the server offered for it, open or not; nullptr for none.
  DeviceLane* find(const cuda::Uuid& uuid);
  // The lane that has the block of our own at that address; nullptr where none has.
  DeviceLane* owner_of(const void* address);
  void trim();
  // Gives back what could not be told by events, and is done. True while there is such left. Costs
  // nothing where the server has events for all devices.
  bool sweep();

 private:
  Result<DeviceLane*> offered(Device name);  // waits for an offer that is on its way
  std::vector<DeviceLane*> open_lanes();
  Result<cuda::Device> visible(const DeviceLane& lane);

  const DevicePeer peer_;
  std::mutex mutex_;  // guards what follows; nothing is ever removed
  std::condition_variable offer_came_;
  std::map<std::int32_t, std::unique_ptr<DeviceLane>> lanes_;  // by the server's number
  std::mutex ask_mutex_;                                       // one asks at a time
  std::set<cuda::Uuid> denied_;                                // under ask_mutex_
  std::mutex open_mutex_;
  std::atomic<bool> sweeps_{false};                    // a lane without events is open
  std::map<int, std::unique_ptr<LocalDevice>> local_;  // by ordinal; under open_mutex_
};

// What a DeviceSegment brought. Error: Protocol.
Result<ClosedChunk> closed_chunk(const protocol::DeviceSegment& segment, UniqueFd fd);

}  // namespace tensorferry::stub
