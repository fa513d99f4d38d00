#include <tensorferry/transport/control_socket.h>

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace tensorferry {
namespace {

using protocol::ControlHeader;
constexpr int kBufferBytes = 4 * protocol::kMaxControlBytes;

int poll_timeout(const Deadline& deadline) {
  if (!deadline) return -1;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
}

// True when the event came, false at the deadline.
Result<bool> wait_for(int fd, short event, const Deadline& deadline) {
  while (true) {
    pollfd entry{fd, event, 0};
    int count = ::poll(&entry, 1, poll_timeout(deadline));
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) return system_failure("poll on the control socket", errno);
    if (count == 0 && passed(deadline)) return false;
  }
}

// Descriptors that came along; all but the first are surplus and closed.
struct Arrived {
  UniqueFd fd;
  std::size_t count = 0;
};

Arrived take_descriptors(msghdr& message) {
  Arrived arrived;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      UniqueFd owned(fd);
      if (arrived.count++ == 0) arrived.fd = std::move(owned);
    }
  }
  return arrived;
}

Error closed_by_peer() {
  return {ErrorCode::Closed, "the control socket was closed by the other side", {}};
}

}  // namespace

struct ControlSocket::Impl {
  UniqueFd fd;
  std::uint64_t inode = 0;
  std::mutex send_mutex;
  std::vector<std::byte> buffer;  // the receiving thread's
};

ControlSocket::ControlSocket(UniqueFd fd) : impl_(std::make_unique<Impl>()) {
  impl_->fd = std::move(fd);
  struct stat status{};
  if (::fstat(impl_->fd.get(), &status) == 0) impl_->inode = status.st_ino;
  ::setsockopt(impl_->fd.get(), SOL_SOCKET, SO_SNDBUF, &kBufferBytes, sizeof kBufferBytes);
  impl_->buffer.resize(protocol::kMaxControlBytes);
}

ControlSocket::ControlSocket(ControlSocket&&) noexcept = default;
ControlSocket& ControlSocket::operator=(ControlSocket&&) noexcept = default;
ControlSocket::~ControlSocket() = default;

Result<std::pair<ControlSocket, ControlSocket>> ControlSocket::pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return system_failure("socketpair for a control socket", errno);
  }
  return std::pair(ControlSocket(UniqueFd(fds[0])), ControlSocket(UniqueFd(fds[1])));
}

int ControlSocket::fd() const noexcept { return impl_->fd.get(); }

UniqueFd ControlSocket::release() noexcept { return std::move(impl_->fd); }

bool ControlSocket::intact() const noexcept {
  struct stat status{};
  return ::fstat(impl_->fd.get(), &status) == 0 && S_ISSOCK(status.st_mode) &&
         status.st_ino == impl_->inode;
}

void ControlSocket::shutdown() noexcept { ::shutdown(impl_->fd.get(), SHUT_RDWR); }

Result<void> ControlSocket::send_bytes(protocol::ControlKind kind, std::span<std::byte> with_header,
                                       int fd, const Deadline& deadline) {
  if (with_header.size() > protocol::kMaxControlBytes) {
    return failure(ErrorCode::Protocol,
                   "a control message of " + std::to_string(with_header.size()) +
                       " bytes is longer than the " + std::to_string(protocol::kMaxControlBytes) +
                       " that are allowed");
  }
  ControlHeader header;
  header.kind = kind;
  std::memcpy(with_header.data(), &header, sizeof header);
  iovec part{with_header.data(), with_header.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  std::scoped_lock lock(impl_->send_mutex);
  while (true) {
    if (!intact())
      return failure(ErrorCode::Closed,
                     "the control socket's descriptor was closed in this process");
    if (::sendmsg(impl_->fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) return std::unexpected(closed_by_peer());
    if (errno != EAGAIN) return system_failure("sending on the control socket", errno);
    auto writable = wait_for(impl_->fd.get(), POLLOUT, deadline);
    if (!writable) return std::unexpected(writable.error());
    if (!*writable)
      return failure(ErrorCode::DeadlineExceeded,
                     "the other side does not read its control socket");
  }
}

Result<std::optional<ControlMessage>> ControlSocket::receive(const Deadline& deadline) {
  while (true) {
    iovec part{impl_->buffer.data(), impl_->buffer.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got = ::recvmsg(impl_->fd.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) {
      auto readable = wait_for(impl_->fd.get(), POLLIN, deadline);
      if (!readable) return std::unexpected(readable.error());
      if (!*readable) return std::nullopt;
      continue;
    }
    // The peer closed with something of ours unread. Told once, and before what it sent: read on
    // until the end.
    if (got < 0 && errno == ECONNRESET) continue;
    if (got < 0) return system_failure("receiving on the control socket", errno);
    Arrived arrived = take_descriptors(message);
    if (got == 0) return std::unexpected(closed_by_peer());
    if ((message.msg_flags & MSG_CTRUNC) && arrived.count == 0) {
      return failure(ErrorCode::System,
                     "a descriptor that was sent could not be taken: this process has as many open "
                     "as it may (ulimit -n)");
    }
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
      return failure(ErrorCode::Protocol, "a control message was longer than allowed");
    }
    if (arrived.count > 1) {
      return failure(ErrorCode::Protocol, "a control message came with " +
                                              std::to_string(arrived.count) + " descriptors");
    }
    ControlHeader header;
    auto size = static_cast<std::size_t>(got);
    if (size < sizeof header)
      return failure(ErrorCode::Protocol, "a control message is too short for its header");
    std::memcpy(&header, impl_->buffer.data(), sizeof header);
    if (header.magic != protocol::kMagic)
      return failure(ErrorCode::Protocol, "what came is no control message");
    if (header.version != protocol::kProtocolVersion) {
      return failure(ErrorCode::Protocol, "the other side speaks protocol version " +
                                              std::to_string(header.version) + ", this one " +
                                              std::to_string(protocol::kProtocolVersion) +
                                              ": they belong to different installations");
    }
    ControlMessage result;
    result.kind = header.kind;
    result.body.assign(impl_->buffer.begin() + sizeof header,
                       impl_->buffer.begin() + static_cast<std::ptrdiff_t>(size));
    result.fd = std::move(arrived.fd);
    return result;
  }
}

}  // namespace tensorferry
