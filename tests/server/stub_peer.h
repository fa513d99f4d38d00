// The other end of a StubLink, played by the test: a stub that says exactly what the test wants it
// to.
#pragma once

#include <gtest/gtest.h>
#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/control_socket.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "call_state.h"
#include "host_arena.h"
#include "scheduler.h"
#include "stub_link.h"

namespace tensorferry::server {

// What an Execute said, copied out of the message.
struct SeenInput {
  std::string name;
  protocol::MemoryRef memory;
  std::vector<std::byte> inline_bytes;
  std::vector<std::int64_t> shape;
  DType dtype;
};
struct SeenRequest {
  std::uint64_t number = 0;
  std::string id;
  std::vector<SeenInput> inputs;
};
struct SeenBatch {
  std::uint64_t number = 0;
  std::vector<SeenRequest> requests;
  std::vector<std::uint64_t> releases;
};

class StubPeer {
 public:
  explicit StubPeer(std::shared_ptr<ControlSocket> socket) : socket_(std::move(socket)) {}
  ~StubPeer() {
    if (!channel_) return;
    channel_->close({ErrorCode::Closed, "test over", {}});
  }

  // Receives Welcome and opens the ring.
  void shake_hands() {
    auto message = take(protocol::ControlKind::Welcome);
    Scratch scratch;
    auto welcome = decode<protocol::Welcome>(message.body, scratch).value();
    ring_ = Segment::map(0, std::move(message.fd),
                         Segment::rounded(channel_bytes(welcome.ring_capacity)))
                .value();
    Channel::Options options;
    options.ring_capacity = welcome.ring_capacity;
    options.resolve = [this](const protocol::MemoryRef& memory) {
      return segments_.resolve(memory.place, memory.offset, memory.bytes);
    };
    channel_ = std::make_unique<Channel>(
        ring_, Side::Stub, std::move(options),
        [this](const Received& received) { return on_message(received); });
  }

  // The next batch that the server sends.
  SeenBatch next_batch() {
    Completion never;
    while (batches_.empty()) {
      if (channel_->inbox().wait(never, Clock::now() + std::chrono::milliseconds(1)) ==
          WaitStatus::Failed) {
        ADD_FAILURE() << channel_->inbox().error().message;
        return {};
      }
    }
    SeenBatch batch = std::move(batches_.front());
    batches_.pop_front();
    return batch;
  }

  // Memory of this process at what the server named, once its segment has arrived.
  std::span<std::byte> at(const protocol::MemoryRef& memory) {
    while (!segments_.find(memory.place)) (void)take_segment();
    return segments_.resolve(memory.place, memory.offset, memory.bytes).value().bytes;
  }

  // The answer to a SegmentRequest.
  Result<protocol::Segment> take_segment() {
    auto message = socket_->receive(Clock::now() + std::chrono::seconds(10));
    if (!message || !*message) return failure(ErrorCode::Internal, "no segment came");
    Scratch scratch;
    if ((*message)->kind == protocol::ControlKind::SegmentDenied) {
      auto denied = decode<protocol::SegmentDenied>((*message)->body, scratch).value();
      return failure(denied.code, std::string(denied.error));
    }
    auto segment = decode<protocol::Segment>((*message)->body, scratch).value();
    segments_.insert(
        Segment::map(segment.segment, std::move((*message)->fd), segment.bytes).value());
    return segment;
  }

  template <class Message>
  Result<void> send(const Message& message) {
    return channel_->send(message, Urgency::Urgent);
  }

  Channel& channel() { return *channel_; }
  SegmentMap& segments() { return segments_; }
  std::byte* ring_memory() { return ring_->data(); }
  ControlSocket& socket() { return *socket_; }
  std::vector<std::uint64_t> cancelled;
  std::vector<std::uint64_t> released;

 private:
  ControlMessage take(protocol::ControlKind kind) {
    while (true) {
      auto message = socket_->receive(Clock::now() + std::chrono::seconds(10));
      if (!message || !*message) {
        ADD_FAILURE() << "no control message " << static_cast<int>(kind);
        return {};
      }
      if ((*message)->kind == kind) return std::move(**message);
    }
  }

  Result<void> on_message(const Received& received) {
    if (received.kind == protocol::RecordKind::Cancel) {
      cancelled.push_back(
          decode_private<protocol::Cancel>(received.body, received.scratch).value().request);
      return {};
    }
    if (received.kind == protocol::RecordKind::Release) {
      auto release = decode_private<protocol::Release>(received.body, received.scratch).value();
      for (const auto& entry : release.releases) released.push_back(entry.lease);
      return {};
    }
    auto execute = decode_private<protocol::Execute>(received.body, received.scratch).value();
    SeenBatch batch;
    batch.number = execute.batch;
    for (const auto& release : execute.releases) {
      batch.releases.push_back(release.lease);
      released.push_back(release.lease);
    }
    for (const auto& request : execute.requests) {
      SeenRequest seen{request.request, std::string(request.id), {}};
      for (const auto& input : request.inputs) {
        seen.inputs.push_back({std::string(input.name),
                               input.memory,
                               {input.inline_bytes.begin(), input.inline_bytes.end()},
                               {input.shape.begin(), input.shape.end()},
                               input.dtype});
      }
      batch.requests.push_back(std::move(seen));
    }
    batches_.push_back(std::move(batch));
    return {};
  }

  std::shared_ptr<ControlSocket> socket_;
  std::shared_ptr<Segment> ring_;
  SegmentMap segments_;
  std::unique_ptr<Channel> channel_;
  std::deque<SeenBatch> batches_;
};

}  // namespace tensorferry::server
