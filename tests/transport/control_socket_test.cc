#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <tensorferry/transport/control_socket.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <thread>

namespace tensorferry {
namespace {

using testing::HasSubstr;

Deadline soon() { return Clock::now() + std::chrono::seconds(20); }
Deadline at_once() { return Clock::now(); }

// A control socket and the plain other end of it.
struct OneSide {
  OneSide() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    socket.emplace(UniqueFd(fds[0]));
    other.reset(fds[1]);
  }
  std::optional<ControlSocket> socket;
  UniqueFd other;
};

void send_raw(int socket, const std::vector<char>& bytes, std::vector<int> descriptors = {}) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    const std::size_t size = descriptors.size() * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(rights), descriptors.data(), size);
  }
  ASSERT_EQ(::sendmsg(socket, &message, 0), static_cast<ssize_t>(bytes.size()));
}

std::vector<char> datagram(protocol::ControlHeader header, std::size_t body = 0) {
  std::vector<char> bytes(sizeof header + body);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

std::string refusal(ControlSocket& socket) {
  auto message = socket.receive(soon());
  if (message) return "it was taken";
  EXPECT_EQ(message.error().code, ErrorCode::Protocol);
  return message.error().message;
}

TEST(ControlSocket, CarriesMessagesInOrderWithTheirDescriptors) {
  auto [here, there] = ControlSocket::pair().value();
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(here.send(protocol::SegmentDropped{7}));
  ASSERT_TRUE(here.send(protocol::SegmentDropped{8}, null.get()));
  auto first = there.receive(soon()).value().value();
  EXPECT_EQ(first.kind, protocol::ControlKind::SegmentDropped);
  EXPECT_FALSE(first.fd);
  auto second = there.receive(soon()).value().value();
  ASSERT_TRUE(second.fd);
  EXPECT_NE(second.fd.get(), null.get()) << "a descriptor of its own";
  EXPECT_TRUE(::fcntl(second.fd.get(), F_GETFD) & FD_CLOEXEC);
  Scratch scratch;
  EXPECT_EQ(decode_private<protocol::SegmentDropped>(second.body, scratch)->segment, 8u);
  EXPECT_GE(::fcntl(null.get(), F_GETFD), 0) << "the sender keeps its own";
}

TEST(ControlSocket, AnotherProtocolVersionIsRefusedWithBothNamed) {
  OneSide one;
  protocol::ControlHeader header;
  header.version = 4711;
  send_raw(one.other.get(), datagram(header));
  const std::string why = refusal(*one.socket);
  EXPECT_THAT(why, HasSubstr("4711"));
  EXPECT_THAT(why, HasSubstr(std::to_string(protocol::kProtocolVersion)));
}

TEST(ControlSocket, WhatIsNoControlMessageIsRefused) {
  OneSide one;
  protocol::ControlHeader header;
  header.magic = 0x464c457f;
  send_raw(one.other.get(), datagram(header, 100));
  EXPECT_THAT(refusal(*one.socket), HasSubstr("no control message"));
  for (std::size_t size : {std::size_t{1}, sizeof header - 1}) {
    send_raw(one.other.get(), std::vector<char>(size));
    EXPECT_THAT(refusal(*one.socket), HasSubstr("too short"));
  }
}

TEST(ControlSocket, AMessageMayHaveWhatTheProtocolAllowsAndNoMore) {
  auto [here, there] = ControlSocket::pair().value();
  const std::size_t most = protocol::kMaxControlBytes - sizeof(protocol::ControlHeader) -
                           encoded_bytes(protocol::Load{});
  const std::string text(most, 'x');
  ASSERT_TRUE(here.send(protocol::Load{text, {}}));
  EXPECT_EQ(there.receive(soon()).value().value().body.size(),
            most + encoded_bytes(protocol::Load{}));
  auto sent = here.send(protocol::Load{text, "y"});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::Protocol);
  EXPECT_THAT(sent.error().message, HasSubstr(std::to_string(protocol::kMaxControlBytes)));
  // A peer that sends more nevertheless.
  OneSide one;
  const int buffer = 4 * protocol::kMaxControlBytes;
  ::setsockopt(one.other.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  send_raw(one.other.get(), datagram({}, protocol::kMaxControlBytes));
  EXPECT_THAT(refusal(*one.socket), HasSubstr("longer than allowed"));
}

int lowest_free() {
  const UniqueFd fd(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
  return fd.get();
}

TEST(ControlSocket, ADescriptorThatThereIsNoRoomForIsAnErrorThatSaysSo) {
  auto [here, there] = ControlSocket::pair().value();
  ASSERT_TRUE(here.send(protocol::SegmentDropped{7}, STDERR_FILENO));
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit full{static_cast<rlim_t>(lowest_free()), before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &full);
  auto received = there.receive(soon());
  ::setrlimit(RLIMIT_NOFILE, &before);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().code, ErrorCode::System);
  EXPECT_THAT(received.error().message, HasSubstr("ulimit -n"));
}

TEST(ControlSocket, SurplusDescriptorsAreAnErrorAndClosed) {
  OneSide one;
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const int before = lowest_free();
  for (int count : {2, 4, 9}) {
    send_raw(one.other.get(), datagram({}),
             std::vector<int>(static_cast<std::size_t>(count), null.get()));
    EXPECT_NE(refusal(*one.socket), "it was taken") << count;
    EXPECT_EQ(lowest_free(), before) << count;
  }
  // Also those of a message that is refused for something else.
  protocol::ControlHeader header;
  header.magic = 1;
  send_raw(one.other.get(), datagram(header), {null.get()});
  refusal(*one.socket);
  EXPECT_EQ(lowest_free(), before);
}

TEST(ControlSocket, SaysWhenTheOtherSideHasClosed) {
  for (bool unread : {false, true}) {
    auto [here, there] = ControlSocket::pair().value();
    if (unread) {
      ASSERT_TRUE(here.send(protocol::Trim{}));  // which `there` never reads
    }
    ASSERT_TRUE(there.send(protocol::Finalize{}));
    there.release().reset();
    auto last = here.receive(soon());
    ASSERT_TRUE(last && *last) << "what was sent before is still received";
    EXPECT_EQ((*last)->kind, protocol::ControlKind::Finalize);
    for (int i = 0; i < 2; ++i) {
      auto message = here.receive(soon());
      ASSERT_FALSE(message);
      EXPECT_EQ(message.error().code, ErrorCode::Closed);
    }
    auto sent = here.send(protocol::Trim{});  // no SIGPIPE
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::Closed);
  }
}

TEST(ControlSocket, WaitsUntilItsDeadline) {
  auto [here, there] = ControlSocket::pair().value();
  EXPECT_FALSE(here.receive(at_once()).value());
  const auto begin = Clock::now();
  EXPECT_FALSE(here.receive(begin + std::chrono::milliseconds(30)).value());
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(30));
}

TEST(ControlSocket, AFullSocketIsBackpressureUntilTheDeadline) {
  auto [here, there] = ControlSocket::pair().value();
  const std::string text(60'000, 'x');
  int count = 0;
  Result<void> sent;
  while ((sent = here.send(protocol::Load{text, {}}, -1, at_once()))) ++count;
  EXPECT_GT(count, 0);
  EXPECT_EQ(sent.error().code, ErrorCode::DeadlineExceeded);
  std::thread sender([&, &end = here] { EXPECT_TRUE(end.send(protocol::Trim{}, -1, soon())); });
  for (int i = 0; i < count; ++i) EXPECT_TRUE(there.receive(soon()).value());
  EXPECT_EQ(there.receive(soon()).value().value().kind, protocol::ControlKind::Trim);
  sender.join();
}

TEST(ControlSocket, ShutdownEndsAWaitOfAnotherThread) {
  auto [here, there] = ControlSocket::pair().value();
  std::thread closer([&, &end = here] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    end.shutdown();
  });
  auto message = here.receive({});
  closer.join();
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code, ErrorCode::Closed);
}

TEST(ControlSocket, IsIntactUntilItsDescriptorIsClosedUnderIt) {
  OneSide one;
  EXPECT_TRUE(one.socket->intact());
  const int fd = one.socket->fd();
  ::close(fd);
  EXPECT_FALSE(one.socket->intact());
  // Somebody opens a file, which gets the number.
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_EQ(file.get(), fd);
  EXPECT_FALSE(one.socket->intact());
  auto sent = one.socket->send(protocol::Trim{});
  ASSERT_FALSE(sent) << "a control message was written to a stranger's file";
  EXPECT_EQ(sent.error().code, ErrorCode::Closed);
  EXPECT_FALSE(one.socket->receive(at_once()));
  // Another socket is not it either.
  OneSide stranger;
  ASSERT_EQ(::dup3(stranger.other.get(), fd, O_CLOEXEC), fd);
  EXPECT_FALSE(one.socket->intact());
  EXPECT_FALSE(one.socket->send(protocol::Trim{}));
  one.socket->release().release();  // the file's now
}

TEST(ControlSocket, SendersOfManyThreadsDoNotMixTheirMessages) {
  auto [here, there] = ControlSocket::pair().value();
  constexpr std::uint32_t kThreads = 4, kEach = 200;
  std::vector<std::thread> senders;
  for (std::uint32_t i = 0; i < kThreads; ++i) {
    senders.emplace_back([&, i, &end = here] {
      const std::string text(1000 * (i + 1), static_cast<char>('a' + i));
      for (std::uint32_t n = 0; n < kEach; ++n)
        ASSERT_TRUE(end.send(protocol::Log{protocol::LogLevel::Info, {}, n, text}, -1, soon()));
    });
  }
  std::uint32_t next[kThreads] = {};
  Scratch scratch;
  for (std::uint32_t n = 0; n < kThreads * kEach; ++n) {
    scratch.reset();
    auto message = there.receive(soon()).value().value();
    auto log = decode_private<protocol::Log>(message.body, scratch).value();
    const auto sender = static_cast<std::uint32_t>(log.text.front() - 'a');
    ASSERT_LT(sender, kThreads);
    EXPECT_EQ(log.text, std::string(1000 * (sender + 1), static_cast<char>('a' + sender)));
    EXPECT_EQ(log.line, next[sender]++);
  }
  for (std::thread& sender : senders) sender.join();
}

}  // namespace
}  // namespace tensorferry
