// Interprocess events in a ring of slots, one slot for each message in flight. The server makes all
// of them, also those that a stub records, before the first request: so nothing that the server
// looks at belongs to a process that may die, and no request makes or opens an event.
//
//   ready     the server records it when the tensors of a message are written; the stub's streams
//             wait for it
//   done      the stub records it when its outputs are written; the server looks (never waits on a
//             stream, which a dead stub could hold up for ever)
//   consumed  the stub records it when it reads the inputs no more; the server looks
//
// A slot is recorded anew only after its peer has said that it is finished with it, since a wait
// that comes late would wait for the newer work.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace tensorferry::cuda {

struct SlotEvents {
  EventHandle ready = nullptr;
  EventHandle done = nullptr;
  EventHandle consumed = nullptr;
};

// A slot that is taken. `generation` tells one use of it from the next.
struct EventSlot {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;
  friend bool operator==(const EventSlot&, const EventSlot&) = default;
};

// What a peer needs to open a slot.
struct SlotHandles {
  std::uint32_t index = 0;
  IpcHandle ready, done, consumed;
};

// The server's side: one for each stub and device. Thread-safe.
class EventRing {
 public:
  // Makes all events: some milliseconds. Errors: gpu_unsupported, gpu_oom(device).
  static Result<std::unique_ptr<EventRing>> create(ContextPtr context, std::size_t slots = 64);
  ~EventRing();  // of a ring that no peer uses any more
  EventRing(const EventRing&) = delete;
  EventRing& operator=(const EventRing&) = delete;

  // Of every slot that is not retired; for one peer, before its first message.
  Result<std::vector<SlotHandles>> export_handles() const;

  // A slot that nobody uses; nullopt when all are taken.
  std::optional<EventSlot> take();
  // The events of a slot that is taken; nullopt for a stale generation or a slot that isn't taken,
  // so that what a peer says can be checked.
  std::optional<SlotEvents> events(EventSlot slot) const;
  // Both sides are finished with it. False as above.
  bool give_back(EventSlot slot);
  // A dead peer may have recorded it: it is never used again.
  bool retire(EventSlot slot);
  // The peer died: all that are taken are retired. Returns how many.
  std::size_t retire_taken();
  // Makes new slots in the place of retired ones, for the peer's successor, which is given the
  // handles anew. The old events stay as they are: nobody can say what still refers to them.
  Result<void> replenish();

  std::size_t available() const noexcept;
  std::size_t taken() const noexcept;
  std::size_t retired() const noexcept;
  const ContextPtr& context() const noexcept;

 private:
  struct Impl;
  explicit EventRing(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

// The stub's side: the events of one server ring, opened. Immutable; any thread.
class PeerEvents {
 public:
  // Opens all. Errors: gpu_pidns_mismatch, gpu_unsupported, gpu_driver.
  static Result<std::unique_ptr<PeerEvents>> open(ContextPtr context,
                                                  std::span<const SlotHandles> handles);
  ~PeerEvents();
  PeerEvents(const PeerEvents&) = delete;
  PeerEvents& operator=(const PeerEvents&) = delete;

  std::optional<SlotEvents> at(std::uint32_t index) const noexcept;
  std::size_t size() const noexcept { return count_; }
  const ContextPtr& context() const noexcept { return context_; }

 private:
  explicit PeerEvents(ContextPtr context) noexcept : context_(std::move(context)) {}
  ContextPtr context_;
  std::vector<SlotEvents> by_index_;
  std::size_t count_ = 0;
};

}  // namespace tensorferry::cuda
