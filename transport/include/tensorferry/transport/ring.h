// A bounded byte ring between one producer and one consumer in two processes. The shared part
// (protocol.h, RingHeader) has no pointers and no lock; the process part below keeps its own
// indices and believes the other side's only after checking them.
//
// Producer: claim → write → commit (or abort). Consumer: peek → copy out → consume. Records never
// wrap. The wake-up protocol is model-checked in tests/model_check/.
#pragma once

#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/protocol.h>
#include <tensorferry/transport/spin.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace tensorferry {

// What a ring may have: a power of two from 4 KiB to 1 GiB. Asked before a peer's word for it is
// computed with.
constexpr bool is_ring_capacity(std::size_t bytes) {
  return std::has_single_bit(bytes) && bytes >= 4096 && bytes <= std::size_t{1} << 30;
}

// Bytes of one direction for a given data capacity.
constexpr std::size_t ring_bytes(std::size_t capacity) { return protocol::kRingDataAt + capacity; }

// The largest body that a ring of this capacity takes; larger ones spill into an arena.
constexpr std::size_t max_record_bytes(std::size_t capacity) {
  return capacity / 4 - sizeof(protocol::RecordHeader);
}

enum class Urgency : std::uint8_t {
  Lazy,    // wake only a thread that waits for messages
  Urgent,  // wake the background thread too
};

// One thread at a time.
class RingWriter {
 public:
  // `memory`: ring_bytes(capacity) bytes, zero when new, aligned to a page.
  RingWriter(std::byte* memory, std::size_t capacity) noexcept;

  // Room for a record's body, or nothing when the ring is full just now. Error Protocol: the
  // consumer's index is impossible. `body_bytes` is at most max_record_bytes(). A second claim
  // replaces the first.
  Result<std::optional<std::span<std::byte>>> claim(std::size_t body_bytes) noexcept;
  // Makes the claimed record visible, with `body_bytes` as written (at most what was claimed), and
  // wakes the consumer if it sleeps: a system call only then.
  void commit(protocol::RecordKind kind, std::size_t body_bytes, bool spilled,
              Urgency urgency) noexcept;
  void abort() noexcept { claimed_ = false; }

  // Sleeps until the consumer has made room for `body_bytes`, the deadline passed or `wake()` was
  // called; wakes the consumer's background thread first so that somebody makes room. Spurious
  // returns happen.
  void wait_for_room(std::size_t body_bytes, const Deadline& deadline) noexcept;
  // Ends a wait_for_room() of this process, from any thread.
  void wake() noexcept;
  std::size_t capacity() const noexcept { return capacity_; }

 private:
  // Bytes to skip so that a record doesn't wrap.
  std::size_t pad_before(std::size_t record_bytes) const noexcept;
  bool has_room(std::size_t bytes, std::uint64_t head) const noexcept;

  protocol::RingHeader* header_;
  std::byte* data_;
  std::size_t capacity_;
  std::uint64_t tail_ = 0;         // ours, the truth
  std::uint64_t cached_head_ = 0;  // the consumer's, as last seen
  bool claimed_ = false;
  std::size_t claimed_pad_ = 0;
  std::size_t claimed_body_ = 0;
};

struct RingRecord {
  protocol::RecordKind kind = protocol::RecordKind::Pad;
  bool spilled = false;
  std::span<const std::byte> body;  // in shared memory: copy it once, then use the copy
};

// One thread at a time, but for drained(), wake(), wake_background() and the two background calls.
class RingReader {
 public:
  RingReader(std::byte* memory, std::size_t capacity) noexcept;
  RingReader(const RingReader&) = delete;
  RingReader& operator=(const RingReader&) = delete;

  // The next record, or nothing. Error Protocol: the producer's index or a record's header is
  // impossible; the reader is of no more use then.
  Result<std::optional<RingRecord>> peek() noexcept;
  // Done with the record that peek() gave: its bytes may be overwritten.
  void consume() noexcept;
  // True if something may be there to peek. Cheap: one load.
  bool ready() const noexcept;
  // True if all that was committed so far has been consumed, as both sides say. From any thread.
  bool drained() const noexcept;

  // A waiting thread: spins briefly and adaptively (pause, then sched_yield), then sleeps until a
  // record comes, the deadline passed or wake() was called. Spurious returns happen.
  void wait(const Deadline& deadline) noexcept;
  // Nobody waits from now on: urgent records shall wake the thread in background_wait(). False when
  // records are there already; then nothing was armed.
  bool arm_background() noexcept;
  // Somebody reads again; the background thread sleeps on.
  void disarm_background() noexcept;
  // The background thread: takes a ticket, looks whether there is something to do, and sleeps until
  // an urgent record came while armed, or wake_background() was called, since the ticket.
  std::uint32_t background_ticket() const noexcept;
  void background_wait(std::uint32_t ticket) noexcept;
  void wake() noexcept;             // ends wait(), from any thread
  void wake_background() noexcept;  // ends background_wait()

 private:
  Result<std::optional<RingRecord>> next_record() noexcept;  // pads too

  protocol::RingHeader* header_;
  std::byte* data_;
  std::size_t capacity_;
  std::uint64_t head_ = 0;
  std::size_t pending_ = 0;  // bytes that consume() will free
  std::atomic<bool> woken_{false};
  AdaptiveSpin spin_;
};

}  // namespace tensorferry
