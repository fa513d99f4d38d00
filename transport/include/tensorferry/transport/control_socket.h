// The control socket: a SOCK_SEQPACKET socketpair for what is rare: handshake, descriptors, life
// cycle, log lines. One datagram is one message (protocol.h, ControlHeader and the encoded
// message), with at most one descriptor (SCM_RIGHTS).
#pragma once

#include <tensorferry/transport/codec.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/protocol.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstddef>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tensorferry {

struct ControlMessage {
  protocol::ControlKind kind{};
  std::vector<std::byte> body;  // private; decode_private<Message>(body, scratch)
  UniqueFd fd;                  // -1 where none came
};

// send() from any thread; receive() by one thread at a time. The descriptor is close-on-exec.
class ControlSocket {
 public:
  explicit ControlSocket(UniqueFd fd);
  // Two connected ends.
  static Result<std::pair<ControlSocket, ControlSocket>> pair();
  ControlSocket(ControlSocket&&) noexcept;
  ControlSocket& operator=(ControlSocket&&) noexcept;
  ~ControlSocket();

  // Sends one message, with a descriptor if `fd` >= 0 (which stays the caller's). Blocks while the
  // peer doesn't read, up to the deadline. Errors: Closed when the peer is gone, Protocol when the
  // message is too long.
  template <class Message>
  Result<void> send(const Message& message, int fd = -1, const Deadline& deadline = {}) {
    std::vector<std::byte> bytes(sizeof(protocol::ControlHeader) + encoded_bytes(message));
    encode(message, std::span(bytes).subspan(sizeof(protocol::ControlHeader)));
    return send_bytes(Message::kKind, bytes, fd, deadline);
  }

  // The next message; nullopt when the deadline passed. Errors: Closed at EOF; Protocol for a wrong
  // magic or version (both sides' are named), for an oversized or truncated datagram and for
  // surplus descriptors; System for a descriptor that this process has no room for, and is lost.
  Result<std::optional<ControlMessage>> receive(const Deadline& deadline);

  int fd() const noexcept;
  UniqueFd
  release() noexcept;  // gives the descriptor away; the object is only good for destruction then
  // True while the descriptor is still the socket it was (a model may have closed it and opened a
  // file).
  bool intact() const noexcept;
  void shutdown() noexcept;  // ends both directions; wakes receive()

 private:
  Result<void> send_bytes(protocol::ControlKind kind, std::span<std::byte> with_header, int fd,
                          const Deadline& deadline);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry
