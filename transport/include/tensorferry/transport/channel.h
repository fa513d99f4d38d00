// One end of a connection for messages: a ring each way in one segment, the sending side under a
// private lock, the receiving side as an Inbox, leases to give back, and bodies too large for the
// ring.
//
//   ring segment | server -> stub: RingHeader, data | stub -> server: RingHeader, data |
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/codec.h>
#include <tensorferry/transport/inbox.h>
#include <tensorferry/transport/ring.h>
#include <tensorferry/transport/segment.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace tensorferry {

enum class Side : std::uint8_t { Server, Stub };

// Both directions of a channel, in bytes.
constexpr std::size_t channel_bytes(std::size_t ring_capacity) {
  return 2 * ring_bytes(ring_capacity);
}

// A message as the handler gets it: `body` is private memory, valid during the call; decode it with
// decode_private<Message>(body, scratch).
struct Received {
  protocol::RecordKind kind;
  std::span<const std::byte> body;
  Scratch& scratch;  // reset before each message; for decode_private()
};

// What one side gives back with a message: fields of it, and what they refer to. Reused, so that it
// allocates nothing once warm. Not to be copied: `releases` points into `after`.
struct GivenBack {
  std::vector<protocol::LeaseRelease> releases;
  std::vector<protocol::EventSlot> seen;
  std::vector<protocol::EventSlot> after;

  GivenBack() = default;
  GivenBack(const GivenBack&) = delete;
  GivenBack& operator=(const GivenBack&) = delete;
  void clear() noexcept {
    releases.clear();
    seen.clear();
    after.clear();
  }
  bool empty() const noexcept { return releases.empty() && seen.empty(); }
};

class Channel {
 public:
  using Handler = std::function<Result<void>(const Received&)>;

  struct Options {
    std::size_t ring_capacity = 1 << 20;
    // Where bodies go that don't fit into a ring record, and where a peer's spilled body is read
    // from. Both may be empty: such messages are errors then. Spilled blocks are taken from our own
    // arena; the peer gives them back by their lease.
    Arena* spill_arena = nullptr;
    std::function<Result<SegmentMap::Range>(const protocol::MemoryRef&)> resolve;
    // The number under which a block of `spill_arena` is known to the peer (its lease).
    std::function<std::uint64_t(BlockId)> issue_lease;
  };

  Channel(std::shared_ptr<Segment> ring, Side side, Options options, Handler handler);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Sends one message; from any thread. Blocks only while the ring is full (backpressure), never
  // beyond the deadline. On an error nothing was sent and nothing is held. Errors:
  // DeadlineExceeded, Closed (with the reason given to close()), Protocol, OutOfSharedMemory (a
  // body that had to spill).
  template <class Message>
  Result<void> send(const Message& message, Urgency urgency = Urgency::Lazy,
                    const Deadline& deadline = {}) {
    struct Thunk {
      static std::size_t write(const void* from, std::span<std::byte> to) {
        return encode(*static_cast<const Message*>(from), to);
      }
    };
    return send_encoded(Message::kKind, encoded_bytes(message), &message, &Thunk::write, urgency,
                        deadline);
  }

  // Gives a lease back with the next message that is sent; of device memory, once the peer sees
  // these events of ours complete. From any thread: never blocks on the peer, never writes the
  // ring. When nothing is sent soon, flush_releases() by the background thread does it; `notify`
  // (set_release_notify) is called when the list becomes non-empty.
  void release_later(std::uint64_t lease, std::span<const protocol::EventSlot> after = {});
  // The same for an event of the peer's ring that was seen complete. Does not notify.
  void seen_later(const protocol::EventSlot& event);
  void set_release_notify(std::function<void()> notify);
  // Moves what has gathered into `out` (cleared first), to travel in a message.
  void take_releases(GivenBack& out);
  // The opposite, where that message was not sent.
  void keep_releases(const GivenBack& unsent);
  // Sends what has gathered as a Release message, if anything. Does nothing when the ring is full
  // just now.
  Result<void> flush_releases(Urgency urgency = Urgency::Lazy);

  Inbox& inbox() noexcept;
  // Ends the channel on this side: senders and waiters fail with `why`. Idempotent.
  void close(Error why);
  // Ends sending only, as when nobody reads at the other side any more: who sends or waits for room
  // fails with `why`, and what the peer has written can still be read. Returns once nobody is
  // sending. Idempotent.
  void close_sending(Error why);
  bool closed() const noexcept;

 private:
  using WriteBody = std::size_t (*)(const void* message, std::span<std::byte> to);
  Result<void> send_encoded(protocol::RecordKind kind, std::size_t body_bytes, const void* message,
                            WriteBody write, Urgency urgency, const Deadline& deadline);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry
