// The second end of a connection by hand: no thread, no checks; what it says and whether it reads
// is up to the test.
#pragma once

#include <gtest/gtest.h>
#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/codec.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/ring.h>

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace tensorferry {

inline Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

class RawEnd {
 public:
  explicit RawEnd(UniqueFd fd) : socket(std::move(fd)) {
    ControlMessage greeting = next_control();
    auto welcome = decode_private<protocol::Welcome>(greeting.body, scratch).value();
    capacity = welcome.ring_capacity;
    const std::size_t bytes = Segment::rounded(channel_bytes(capacity));
    ring = Segment::map(0, std::move(greeting.fd), bytes).value();
  }

  ControlMessage next_control() {
    auto message = socket.receive(soon());
    EXPECT_TRUE(message) << message.error().message;
    EXPECT_TRUE(message && *message) << "nothing came";
    return std::move(**message);
  }

  // The next segment that the first end tells of.
  std::shared_ptr<Segment> next_segment() {
    ControlMessage message = next_control();
    EXPECT_EQ(message.kind, protocol::ControlKind::Segment);
    auto segment = decode_private<protocol::Segment>(message.body, scratch).value();
    return Segment::map(segment.segment, std::move(message.fd), segment.bytes).value();
  }

  // A segment for an arena of ours.
  std::shared_ptr<Segment> ask(std::size_t bytes) {
    EXPECT_TRUE(socket.send(protocol::SegmentRequest{++request, bytes}));
    return next_segment();
  }

  template <class Message>
  void say(const Message& message) {
    std::vector<std::byte> bytes(encoded_bytes(message));
    encode(message, bytes);
    say_bytes(bytes, Message::kKind);
  }
  // A record as it is.
  void say_bytes(std::span<const std::byte> body, protocol::RecordKind kind) {
    auto room = writer().claim(body.size()).value();
    ASSERT_TRUE(room);
    std::ranges::copy(body, room->begin());
    writer().commit(kind, body.size(), false, Urgency::Urgent);
  }
  void say_spilled(const protocol::Spill& spill) {
    auto room = writer().claim(encoded_bytes(spill)).value();
    ASSERT_TRUE(room);
    writer().commit(protocol::RecordKind::User, encode(spill, *room), true, Urgency::Urgent);
  }

  // The next message of the first end; valid until the next one.
  protocol::UserMessage hear() {
    const Deadline deadline = soon();
    while (true) {
      auto record = reader().peek().value();
      if (!record) {
        EXPECT_FALSE(passed(deadline)) << "nothing came";
        reader().wait(deadline);
        continue;
      }
      const bool user = record->kind == protocol::RecordKind::User;
      if (user) {
        scratch.reset();
        auto message = decode<protocol::UserMessage>(record->body, scratch);
        reader().consume();
        return message.value();
      }
      reader().consume();
    }
  }

  RingWriter& writer() {
    if (!writer_) writer_.emplace(ring->data() + ring_bytes(capacity), capacity);
    return *writer_;
  }
  RingReader& reader() {
    if (!reader_) reader_.emplace(ring->data(), capacity);
    return *reader_;
  }

  ControlSocket socket;
  std::size_t capacity = 0;
  std::shared_ptr<Segment> ring;
  Scratch scratch;
  std::uint64_t request = 0;

 private:
  std::optional<RingWriter> writer_;
  std::optional<RingReader> reader_;
};

// A tensor of `bytes` bytes in a segment.
inline protocol::TensorRecord tensor_in(SegmentId segment, std::uint64_t offset,
                                        std::span<const std::int64_t> shape, std::uint64_t lease) {
  protocol::TensorRecord tensor;
  tensor.name = "T";
  tensor.dtype = kUint8;
  tensor.shape = shape;
  tensor.memory = {protocol::MemoryKind::Segment, segment, offset,
                   static_cast<std::uint64_t>(shape[0]), lease};
  return tensor;
}

}  // namespace tensorferry
