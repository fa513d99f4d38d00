// What an Endpoint (endpoint.h) asks of whoever knows devices: the transport itself knows of none.
// tensorferry::cuda has it for GPUs (<tensorferry/cuda/device_side.h>).
//
// A *place* is one device as this process has it. Nothing here waits for the device but wait().
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/segment.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct CUstream_st;

namespace tensorferry {

// A stream of this process's. nullptr stands for all that the process does on the device.
using DeviceStream = CUstream_st*;
using DeviceStreams = std::vector<DeviceStream>;

// Called once, on a thread that it must not hold up.
using DeviceDone = std::move_only_function<void(Result<void>)>;

// What names a piece of device memory to another process: a descriptor, or the bytes of a handle.
struct DeviceHandle {
  UniqueFd fd;
  std::string bytes;
};

// Events that were made here and that a peer records, so that nobody looks at what belongs to a
// process that may end. Thread-safe; shared by who looks.
class DeviceEvents {
 public:
  virtual ~DeviceEvents() = default;
  // Of each, in order: what the peer opens. Empty where the device has no such events.
  virtual Result<std::vector<std::string>> handles() const = 0;
  virtual std::size_t size() const noexcept = 0;
  // Calls `done` once the event, which the peer has recorded, is complete.
  virtual void watch(std::uint32_t slot, DeviceDone done) = 0;
  // The peer's process has ended: what is watched now fails with `why`, soon.
  virtual void cancel(const Error& why) = 0;
};

// A peer's events, opened to be recorded here. Thread-safe.
class PeerDeviceEvents {
 public:
  virtual ~PeerDeviceEvents() = default;
  virtual std::size_t size() const noexcept = 0;
  // The event stands for all that is on the stream so far.
  virtual Result<void> record(std::uint32_t slot, DeviceStream stream) = 0;
};

// Thread-safe.
class DevicePlace {
 public:
  virtual ~DevicePlace() = default;
  virtual int ordinal() const noexcept = 0;            // in this process
  virtual std::string_view uuid() const noexcept = 0;  // protocol::kUuidBytes: between processes

  // ---- memory: these may take long, and are no part of a message once there is enough
  virtual Result<std::shared_ptr<Segment>> make_segment(SegmentId id, std::size_t bytes) = 0;
  virtual Result<DeviceHandle> export_segment(const Segment& segment) = 0;
  virtual Result<std::shared_ptr<Segment>> open_segment(SegmentId id, DeviceHandle handle,
                                                        std::size_t bytes) = 0;
  // True where a peer has to close what it opened before its maker lets go of it.
  virtual bool peers_close_first() const noexcept = 0;

  // ---- events
  virtual Result<std::shared_ptr<DeviceEvents>> make_events(std::size_t count) = 0;
  virtual Result<std::unique_ptr<PeerDeviceEvents>> open_events(
      std::span<const std::string_view> handles) = 0;

  // ---- work
  // A stream of the place's own; what is put there from now on comes after all that is on these.
  virtual Result<DeviceStream> stream_after(const DeviceStreams& streams) = 0;
  // Puts a counted copy on that stream.
  virtual Result<void> copy(std::byte* to, const std::byte* from, std::size_t bytes) = 0;
  // Calls `done` once all that is on the streams so far is done.
  virtual void when_done(const DeviceStreams& streams, DeviceDone done) = 0;
  // Waits on this thread for all that is on the place's own stream, and counts it.
  virtual Result<void> wait() = 0;
};

// The devices of this process. Asks for nothing before it is asked. Thread-safe.
class DeviceSide {
 public:
  virtual ~DeviceSide() = default;
  virtual Result<std::shared_ptr<DevicePlace>> open(int ordinal) = 0;
  virtual Result<std::shared_ptr<DevicePlace>> open(std::string_view uuid) = 0;
};

}  // namespace tensorferry
