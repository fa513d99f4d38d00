// One device that the server shares with this stub: two rings of events, the server's chunks, and
// an arena of the stub's own, whose chunks the server makes.
//
// Which of that works here is found out when it is opened (device_probe.h). On a rung without
// events each side waits until its work is done before it says so. Where the server's chunks can't
// be mapped, the arena's are this process's alone, and tensors cross in host memory (`stages`).
//
//   to_stub    the server recorded "the inputs are written"; streams here wait for it
//   from_stub  we record "our work is done"; the server looks, and gives the slot back (`seen`)
//
// What came is kept closed (descriptors, handles) until the model touches the device: a stub whose
// model doesn't has no context and has loaded no driver.
#pragma once

#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/event_slots.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "chunk_shelf.h"
#include "device_endings.h"
#include "device_probe.h"
#include "local_device.h"
#include "replies.h"

namespace tensorferry::stub {

// What lanes ask of the link to the server.
struct DevicePeer {
  // Whether the server offers the device; waits until it has said so.
  std::function<Result<void>(const cuda::Uuid&)> ask_for_device;
  std::function<Result<ClosedChunk>(Device, std::size_t bytes)> ask_for_chunk;
  std::function<void(SegmentId)> say_dropped;
  DeviceEndings::ReleaseLease release;
  std::function<void()> read_messages;  // that have come, unless somebody is doing so
  std::function<Result<ProbeTrial>(Device, const std::optional<TrialOutcome>&)> report_probe;
};

// Of DeviceOffer.
struct OfferedDevice {
  Device name;
  cuda::Uuid uuid;
  std::vector<cuda::IpcHandle> to_stub, from_stub;
  ArenaOptions arena;
  cuda::Rung rung = cuda::Rung::Vmm;
  bool probe = false;
};

// Thread-safe, but for DeviceUse (the GIL).
class DeviceLane {
 public:
  DeviceLane(OfferedDevice offered, DevicePeer peer)
      : offered_(std::move(offered)), peer_(std::move(peer)) {}

  const Device& name() const noexcept { return offered_.name; }
  const cuda::Uuid& uuid() const noexcept { return offered_.uuid; }
  ChunkShelf& chunks() noexcept { return chunks_; }

  // Opens the rings on our device of that UUID. Once: the answer, an error too, stays. Whatever
  // follows here is for an open lane.
  Result<void> open(LocalDevice& local);
  bool is_open() const noexcept { return is_open_.load(std::memory_order_acquire); }
  LocalDevice& local() const noexcept { return *local_; }
  bool stages() const noexcept { return !shares_device_memory(rung_); }
  bool has_events() const noexcept { return slots_->count() > 0; }
  // That memory is touched here from now on. What the server wrote to it is done, where an event
  // could not tell.
  void enter(DeviceUse& use);

  Result<std::byte*> address(SegmentId id, std::uint64_t offset, std::uint64_t bytes);
  Arena& arena() noexcept { return *arena_; }
  // A block of our own, page-aligned. Error: gpu_oom with what the arena or the server said.
  Result<Block> allocate(std::size_t bytes);
  DeviceEndings& endings() noexcept { return *endings_; }

  // The event that the server recorded. Error: Protocol.
  Result<cuda::EventHandle> event_of(const protocol::EventSlot& ready) const;
  // Whatever is put on the result from now on comes after the server's writing and after all
  // streams of `use`. It is the only stream of `use`, or one of ours.
  Result<cuda::StreamHandle> stream_after(const DeviceUse& use);
  // Puts a copy of the range on stream_after(use), and remembers that one there.
  Result<cuda::StreamHandle> copy(std::byte* to, const DeviceRange& from, DeviceUse& use);
  // Records an event for the message that is to name it; `kept` lives until the server has seen it
  // complete. May wait for a free one: without the GIL. Nothing where the server offered no events:
  // then it has waited until the work was done.
  Result<std::optional<protocol::EventSlot>> record(UsedStream stream, EventSlots::Kept kept);
  // The server saw it complete. False where it was not under way. Runs what drops what was kept:
  // with or without the GIL.
  bool seen(const protocol::EventSlot& event);

 private:
  Result<void> open_once(LocalDevice& local);
  Result<void> find_rung(LocalDevice& local);
  Result<std::shared_ptr<Segment>> grow(std::size_t bytes);
  Result<std::shared_ptr<Segment>> grow_alone(std::size_t bytes);
  Result<protocol::EventSlot> record_in(EventSlots::Taken taken, UsedStream stream);
  std::optional<std::vector<protocol::EventSlot>> try_mark(const Streams& streams);

  const OfferedDevice offered_;
  const DevicePeer peer_;
  ChunkShelf chunks_;

  std::mutex open_mutex_;
  std::optional<Result<void>> opened_;
  std::atomic<bool> is_open_{false};
  std::atomic<SegmentId> own_segments_{0};
  // Constant once open.
  LocalDevice* local_ = nullptr;
  cuda::Rung rung_ = cuda::Rung::Vmm;
  std::unique_ptr<cuda::PeerEvents> to_stub_, from_stub_;
  std::unique_ptr<EventSlots> slots_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<DeviceEndings> endings_;
};

}  // namespace tensorferry::stub
