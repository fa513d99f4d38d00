#include "segment_exchange.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

namespace tensorferry {
namespace {

// How long a living peer may take to read its control socket.
constexpr std::chrono::seconds kPatience{30};

void wait_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  while (::poll(&entry, 1, -1) < 0 && errno == EINTR) {
  }
}

}  // namespace

SegmentExchange::SegmentExchange(ControlSocket socket, EndRole role, std::size_t arena_max_bytes)
    : socket_(std::move(socket)), role_(role), arena_max_bytes_(arena_max_bytes) {}

// ------------------------------------------------------------------------------- this end's arena
Result<std::shared_ptr<Segment>> SegmentExchange::provide(std::size_t bytes) {
  if (role_ == EndRole::Second) return ask(bytes);
  auto segment = make(bytes);
  if (!segment) return segment;
  protocol::Segment message{(*segment)->id(), protocol::SegmentRole::Host, (*segment)->bytes(), 0};
  auto sent = socket_.send(message, (*segment)->fd(), Clock::now() + kPatience);
  if (!sent) return std::unexpected(sent.error());
  return segment;
}

Result<std::shared_ptr<Segment>> SegmentExchange::make(std::size_t bytes) {
  SegmentId id;
  {
    std::scoped_lock lock(mutex_);
    id = next_segment_++;
  }
  return Segment::create(id, bytes);
}

Result<std::shared_ptr<Segment>> SegmentExchange::ask(std::size_t bytes) {
  std::uint64_t number;
  {
    std::scoped_lock lock(mutex_);
    number = next_request_++;
    asked_.insert(number);
  }
  const auto deadline = Clock::now() + kPatience;
  auto sent = socket_.send(protocol::SegmentRequest{number, bytes}, -1, deadline);
  std::unique_lock lock(mutex_);
  if (sent) {
    answered_.wait_until(lock, deadline, [&] { return answers_.contains(number) || ended_; });
  }
  auto answer = answers_.extract(number);
  if (answer) return std::move(answer.mapped());
  if (!sent) {
    asked_.erase(number);
    return std::unexpected(sent.error());
  }
  if (ended_)
    return failure(ErrorCode::Closed, "the other end was closed or its process has ended");
  return failure(ErrorCode::Unavailable,
                 "the first end did not answer a request for a segment of " +
                     std::to_string(bytes) + " bytes");
}

void SegmentExchange::dropped(SegmentId id) {
  {
    std::scoped_lock lock(mutex_);
    own_.erase(id);
  }
  // Where this fails the connection has ended, and the peer unmaps everything.
  (void)socket_.send(protocol::SegmentDropped{id}, -1, Clock::now() + kPatience);
}

// ------------------------------------------------------------------------------------- the peer's
Result<SegmentMap::Range> SegmentExchange::resolve(const protocol::MemoryRef& memory) {
  if (role_ == EndRole::Second) {
    auto here = take_in_until([&] { return peers_.find(memory.place) != nullptr; });
    if (!here) return std::unexpected(here.error());
  }
  return peers_.resolve(memory.place, memory.offset, memory.bytes);
}

Result<void> SegmentExchange::take_in_until(const std::function<bool()>& is_here) {
  if (is_here()) return {};
  std::scoped_lock lock(receive_mutex_);
  while (!is_here()) {
    auto taken = take_one();
    if (!taken) return std::unexpected(taken.error());
    if (!*taken) break;
  }
  return {};
}

Error SegmentExchange::serve() {
  std::optional<Error> why;
  while (!why) {
    wait_readable(socket_.fd());
    std::scoped_lock lock(receive_mutex_);
    if (auto taken = take_one(); !taken) why = taken.error();
  }
  std::scoped_lock lock(mutex_);
  ended_ = true;
  answered_.notify_all();
  return *why;
}

Result<bool> SegmentExchange::take_one() {
  auto message = socket_.receive(Clock::now());
  if (!message) return std::unexpected(message.error());
  if (!*message) return false;
  scratch_.reset();
  if (auto handled = handle(std::move(**message)); !handled)
    return std::unexpected(handled.error());
  return true;
}

Result<void> SegmentExchange::handle(ControlMessage message) {
  const bool first = role_ == EndRole::First;
  // Decodes the body and hands it on.
  auto with = [&]<class Message>(auto&& use) -> Result<void> {
    auto decoded = decode_private<Message>(message.body, scratch_);
    if (!decoded) return std::unexpected(decoded.error());
    return use(*decoded);
  };
  switch (message.kind) {
    case protocol::ControlKind::SegmentRequest:
      if (!first) break;
      return with.operator()<protocol::SegmentRequest>(
          [this](const auto& request) { return grant(request); });
    case protocol::ControlKind::Segment:
      if (first) break;
      return with.operator()<protocol::Segment>(
          [&](const auto& segment) { return on_segment(segment, std::move(message.fd)); });
    case protocol::ControlKind::SegmentDenied:
      if (first) break;
      return with.operator()<protocol::SegmentDenied>(
          [this](const auto& denied) { return on_denied(denied); });
    case protocol::ControlKind::SegmentDropped:
      return with.operator()<protocol::SegmentDropped>(
          [this](const auto& dropped) { return on_dropped(dropped.segment); });
    default:
      if (others_) return others_(std::move(message), scratch_);
      break;
  }
  return broken("sent a control message of kind " +
                std::to_string(static_cast<unsigned>(message.kind)) + ", which it may not");
}

Result<void> SegmentExchange::on_segment(const protocol::Segment& segment, UniqueFd fd) {
  const bool for_us = segment.reply_to != 0;
  if (for_us != (segment.role == protocol::SegmentRole::Stub))
    return broken("sent a segment for neither arena");
  {
    std::scoped_lock lock(mutex_);
    if (for_us && !asked_.contains(segment.reply_to))
      return broken("sent a segment that nobody asked for");
    if (own_.contains(segment.segment) || peers_.find(segment.segment))
      return broken("sent segment " + std::to_string(segment.segment) + " twice");
  }
  auto mapped = Segment::map(segment.segment, std::move(fd), segment.bytes);
  if (!for_us) {
    if (!mapped) return std::unexpected(mapped.error());
    peers_.insert(std::move(*mapped));
    return {};
  }
  if (!mapped && mapped.error().code == ErrorCode::Protocol) return std::unexpected(mapped.error());
  return answer(segment.reply_to, std::move(mapped));
}

Result<void> SegmentExchange::on_denied(const protocol::SegmentDenied& denied) {
  return answer(denied.reply_to, failure(denied.code, std::string(denied.error)));
}

Result<void> SegmentExchange::answer(std::uint64_t number,
                                     Result<std::shared_ptr<Segment>> segment) {
  std::scoped_lock lock(mutex_);
  if (asked_.erase(number) == 0) return broken("answers a request that was not made");
  if (segment) own_.insert((*segment)->id());
  answers_.emplace(number, std::move(segment));
  answered_.notify_all();
  return {};
}

Result<void> SegmentExchange::on_dropped(SegmentId id) {
  auto segment = peers_.find(id);
  if (!segment) return broken("drops segment " + std::to_string(id) + ", which it does not have");
  peers_.erase(id);  // who still holds ranges of it keeps it mapped
  if (role_ == EndRole::First) granted_bytes_ -= segment->bytes();
  return {};
}

Result<void> SegmentExchange::grant(const protocol::SegmentRequest& request) {
  const auto deadline = Clock::now() + kPatience;
  const std::size_t left = arena_max_bytes_ - std::min(arena_max_bytes_, granted_bytes_);
  auto segment =
      request.bytes <= left
          ? make(request.bytes)
          : failure(ErrorCode::OutOfSharedMemory,
                    "a segment of " + std::to_string(request.bytes) + " bytes beside " +
                        std::to_string(granted_bytes_) + " is above the arena's maximum of " +
                        std::to_string(arena_max_bytes_));
  if (!segment) {
    return socket_.send(
        protocol::SegmentDenied{request.number, segment.error().code, segment.error().message}, -1,
        deadline);
  }
  granted_bytes_ += (*segment)->bytes();
  peers_.insert(*segment);
  return socket_.send(protocol::Segment{(*segment)->id(), protocol::SegmentRole::Stub,
                                        (*segment)->bytes(), request.number},
                      (*segment)->fd(), deadline);
}

void SegmentExchange::shutdown() noexcept { socket_.shutdown(); }

void SegmentExchange::abandon() noexcept {
  if (socket_.intact()) socket_.release().reset();
}

}  // namespace tensorferry
