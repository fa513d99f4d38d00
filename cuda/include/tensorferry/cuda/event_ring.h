// Interprocess events in a ring. The server makes all of them, also those that a stub records,
// before the first request that needs one: so nothing that the server looks at belongs to a process
// that may die, and no request makes or opens an event. A stub has two rings for each device: one
// that the server records and the stub's streams wait for, and one that the stub records and the
// server looks at (it never waits for it on a stream, which a dead stub could hold up for ever).
//
// An event is recorded anew only after its peer has said that it is finished with it, since a wait
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

// An event of the ring that is taken. `generation` tells one use of it from the next: from 1.
struct EventSlot {
  std::uint32_t index = 0;
  std::uint64_t generation = 0;
  friend bool operator==(const EventSlot&, const EventSlot&) = default;
};

// Whether another process is to open them: some devices have none such.
enum class EventUse : std::uint8_t { Interprocess, OwnProcess };

// The server's side; or events of one process's own, in a ring. Thread-safe.
class EventRing {
 public:
  // Makes all events: some milliseconds. Errors: gpu_unsupported, gpu_oom(device).
  static Result<std::unique_ptr<EventRing>> create(ContextPtr context, std::size_t size,
                                                   EventUse use = EventUse::Interprocess);
  ~EventRing();  // of a ring that no peer uses any more
  EventRing(const EventRing&) = delete;
  EventRing& operator=(const EventRing&) = delete;

  // Of each event, in the order of indices.
  Result<std::vector<IpcHandle>> export_handles() const;

  // One that nobody uses, that was free longest; nullopt when all are taken.
  std::optional<EventSlot> take();
  // The event of a slot that is taken; nullopt for a stale generation or one that isn't taken.
  std::optional<EventHandle> event(EventSlot slot) const;
  // Both sides are finished with it. False as above.
  bool give_back(EventSlot slot);
  // A dead peer may have recorded it: it is never used again. False as above.
  bool retire(EventSlot slot);

  // Of a ring that the peer takes from: index < size().
  EventHandle at(std::uint32_t index) const;
  std::size_t size() const noexcept;
  std::size_t available() const noexcept;
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
                                                  std::span<const IpcHandle> handles);
  ~PeerEvents();
  PeerEvents(const PeerEvents&) = delete;
  PeerEvents& operator=(const PeerEvents&) = delete;

  std::optional<EventHandle> at(std::uint32_t index) const noexcept {
    return index < events_.size() ? std::optional(events_[index]) : std::nullopt;
  }
  std::size_t size() const noexcept { return events_.size(); }
  const ContextPtr& context() const noexcept { return context_; }

 private:
  explicit PeerEvents(ContextPtr context) noexcept : context_(std::move(context)) {}
  ContextPtr context_;
  std::vector<EventHandle> events_;
};

}  // namespace tensorferry::cuda
