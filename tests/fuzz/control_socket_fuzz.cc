// Any datagrams with any number of descriptors: receive() gives messages or errors, and no
// descriptor is left open.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <tensorferry/transport/control_socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "all_messages.h"
#include "fuzz/fuzz_input.h"

namespace {

using namespace tensorferry;

// A descriptor that is free just now; the same again if nothing was left open since.
int lowest_free() {
  const int fd = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  ::close(fd);
  return fd;
}

void send_datagram(int socket, std::span<const unsigned char> bytes, std::size_t descriptors,
                   int fd) {
  iovec part{const_cast<unsigned char*>(bytes.data()), bytes.size()};
  int fds[3] = {fd, fd, fd};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptors > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds, descriptors * sizeof(int));
  }
  (void)::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void decode_any(const ControlMessage& message) {
  Scratch scratch;
  ControlMessages::for_each([&]<class Message>() {
    if (Message::kKind == message.kind) (void)decode_private<Message>(message.body, scratch);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  FuzzInput input(data, size);
  const int before = lowest_free();
  {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
    UniqueFd theirs(fds[1]);
    ControlSocket socket{UniqueFd(fds[0])};
    for (int i = 0; i < 8 && !input.done(); ++i) {
      const std::uint8_t choice = input.byte();
      // Half of them with a right header, or the rest would seldom be looked at.
      unsigned char datagram[512];
      std::size_t at = 0;
      if (choice & 4) {
        protocol::ControlHeader header;
        header.kind = static_cast<protocol::ControlKind>(input.byte() % 16);
        std::memcpy(datagram, &header, sizeof header);
        at = sizeof header;
      }
      const auto body = input.take(input.byte());
      if (!body.empty()) std::memcpy(datagram + at, body.data(), body.size());
      send_datagram(theirs.get(), std::span(datagram, at + body.size()), choice % 4, STDERR_FILENO);
    }
    theirs.reset();
    while (true) {
      auto message = socket.receive(Clock::now());
      if (message && !*message) std::abort();  // there is always the end to be read
      if (message) decode_any(**message);
      if (!message && message.error().code == ErrorCode::Closed) break;
      if (!message && message.error().code != ErrorCode::Protocol) std::abort();
    }
  }
  if (lowest_free() != before) std::abort();
  return 0;
}
