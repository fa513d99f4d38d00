// The control socket of a connection of two ends (endpoint.h): segments, and what device_links.h
// has to say. The first end makes all segments, also those of the second one's arena, which asks
// for them; each tells the other which of its own it has dropped.
#pragma once

#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/segment.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace tensorferry {

// What the peer may not do.
inline std::unexpected<Error> broken(std::string what) {
  return failure(ErrorCode::Protocol, "the other end " + std::move(what));
}

enum class EndRole : std::uint8_t { First, Second };

// Thread-safe.
class SegmentExchange {
 public:
  // `arena_max_bytes`: what all segments of one end's arena may take together.
  SegmentExchange(ControlSocket socket, EndRole role, std::size_t arena_max_bytes);
  // Who handles what is not about segments. Before serve().
  using OtherMessages = std::function<Result<void>(ControlMessage, Scratch&)>;
  void set_others(OtherMessages others) { others_ = std::move(others); }

  // One more segment for this end's arena; the peer knows it when this returns. The second end
  // waits for the first one's answer: at most half a minute, or until serve() has ended.
  Result<std::shared_ptr<Segment>> provide(std::size_t bytes);
  // This end's arena has dropped a segment.
  void dropped(SegmentId id);
  // The memory that a message of the peer names, in the peer's arena. Error Protocol where it was
  // never given a descriptor for it: descriptors are sent before what names them.
  Result<SegmentMap::Range> resolve(const protocol::MemoryRef& memory);

  // Takes in what has come until `is_here()`, or until nothing is left: what a message names was
  // sent before it.
  Result<void> take_in_until(const std::function<bool()>& is_here);
  // Sends what is not about segments.
  template <class Message>
  Result<void> send(const Message& message, int fd, const Deadline& deadline) {
    return socket_.send(message, fd, deadline);
  }

  // The body of a thread: reads the peer's messages until it is gone (Closed) or breaks the
  // protocol (Protocol), and says which.
  Error serve();
  // Ends serve() and the connection; the peer notices. Idempotent.
  void shutdown() noexcept;
  // In a forked child: closes the descriptor without a word to the peer. Nothing else is called
  // afterwards.
  void abandon() noexcept;

 private:
  // Under receive_mutex_: takes one message if there is one. False where there is none.
  Result<bool> take_one();
  Result<void> handle(ControlMessage message);
  Result<void> on_segment(const protocol::Segment& segment, UniqueFd fd);
  Result<void> on_denied(const protocol::SegmentDenied& denied);
  Result<void> on_dropped(SegmentId id);
  Result<void> grant(const protocol::SegmentRequest& request);
  Result<void> answer(std::uint64_t number, Result<std::shared_ptr<Segment>> segment);
  Result<std::shared_ptr<Segment>> make(std::size_t bytes);
  Result<std::shared_ptr<Segment>> ask(std::size_t bytes);

  ControlSocket socket_;
  const EndRole role_;
  const std::size_t arena_max_bytes_;
  SegmentMap peers_;  // of the peer's arena
  OtherMessages others_;

  std::mutex receive_mutex_;  // one message is read and handled at a time; guards what follows
  Scratch scratch_;
  std::size_t granted_bytes_ = 0;  // first end: of the second one's arena

  std::mutex mutex_;  // guards what follows; never held while anything blocks
  std::condition_variable answered_;
  SegmentId next_segment_ = 1;
  std::uint64_t next_request_ = 1;
  std::unordered_map<std::uint64_t, Result<std::shared_ptr<Segment>>> answers_;
  std::unordered_set<std::uint64_t> asked_;  // requests without an answer yet
  std::unordered_set<SegmentId> own_;        // second end: what its arena has been granted
  bool ended_ = false;
};

}  // namespace tensorferry
