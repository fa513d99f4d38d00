// What one stub and the server share of one GPU: two rings of events, the stub's own segments
// there, and which of our events stand for loans that the stub still has.
//
//   to_stub    we record "the inputs of this message are written"; the stub's streams wait for it
//   from_stub  the stub records "my work is done"; we look whether it is, and no stream of ours
//              ever waits for it, since the stub may die first
//
// The rung (cuda/rung.h) says which of that the stub can use: where it has no events, we wait until
// our writing is done before a message says so; where it can't map our memory, tensors are staged
// in host memory. It is the model's best one until the stub opens the device and probes it.
//
// All events are ours, so that none goes with a process that somebody waits for. A slot of to_stub
// is free again when no loan of its message is left; one of from_stub when we have told the stub
// that we saw it complete.
#pragma once

#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/event_slots.h>
#include <tensorferry/transport/protocol.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "device_probe.h"
#include "gpu_arenas.h"
#include "stub_segments.h"

namespace tensorferry::server {

// Thread-safe. Shared by those who look at its events.
class DeviceLane {
 public:
  // Makes the events: some milliseconds. Error Unsupported where the model has no GPU.
  static Result<std::shared_ptr<DeviceLane>> open(GpuArena arena);

  // Tells the stub of it: comes before anything that names the device.
  Result<void> offer(ControlSocket& socket, const ArenaOptions& stub_arena,
                     const Deadline& deadline) const;
  // Sends a segment's handle.
  Result<void> announce(ControlSocket& socket, const Segment& segment, protocol::SegmentRole role,
                        std::uint64_t reply_to, const Deadline& deadline) const;

  Gpu& gpu() const noexcept { return *arena_.gpu; }
  const std::shared_ptr<Gpu>& gpu_ptr() const noexcept { return arena_.gpu; }
  const GpuArena& gpu_arena() const noexcept { return arena_; }
  HostArena& arena() const noexcept { return *arena_.blocks; }
  GpuSharing& sharing() const noexcept { return *arena_.sharing; }

  cuda::Rung rung() const noexcept { return rung_.load(std::memory_order_acquire); }
  void set_rung(cuda::Rung rung) noexcept { rung_.store(rung, std::memory_order_release); }
  // Of the thread that reads the control socket.
  DeviceProbe& probe() noexcept { return probe_; }
  // A step of it, to the stub.
  Result<void> send_step(ControlSocket& socket, DeviceProbe::Step step, std::uint64_t reply_to,
                         const Deadline& deadline) const;

  // ---- our events
  // Records one after all that is on our stream so far, with one holder; none where all are taken.
  Result<std::optional<protocol::EventSlot>> record_ready();
  void hold(const protocol::EventSlot& ready);
  void drop(const protocol::EventSlot& ready);
  cuda::EventHandle our_event(const protocol::EventSlot& ready) const;

  // ---- the stub's
  // An event that the stub says it has recorded. Error Protocol where it can't have.
  Result<void> take_recorded(const protocol::EventSlot& recorded) {
    return recorded_.take(recorded);
  }
  cuda::EventHandle stubs_event(const protocol::EventSlot& recorded) const;
  // It was seen complete: the stub is told and may record it again.
  void give_back(const protocol::EventSlot& recorded) { recorded_.give_back(recorded); }

  // ---- the stub's segments
  StubSegments& segments() noexcept { return segments_; }

 private:
  struct Rings {
    std::unique_ptr<cuda::EventRing> to_stub, from_stub;
    std::vector<cuda::IpcHandle> to_stub_handles, from_stub_handles;
  };
  static Result<Rings> make_rings(const Gpu& gpu);
  DeviceLane(GpuArena arena, Rings rings, cuda::RungLadder ladder);

  const GpuArena arena_;
  const Rings rings_;  // from_stub: none where the stub has no events
  DeviceProbe probe_;
  std::atomic<cuda::Rung> rung_;
  StubSegments segments_;
  RecordedSlots recorded_;  // of from_stub_

  mutable std::mutex mutex_;            // guards what follows
  std::vector<std::uint32_t> holders_;  // of to_stub_, by slot
};

}  // namespace tensorferry::server
