#include "peer.h"

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "peer_socket.h"

extern char** environ;

namespace tensorferry::cuda {

bool send_frame(int socket, const PeerFrame& frame, int fd) {
  iovec io{const_cast<PeerFrame*>(&frame), sizeof frame};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == sizeof frame;
}

bool receive_frame(int socket, PeerFrame& frame, UniqueFd& fd) {
  iovec io{&frame, sizeof frame};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != sizeof frame) return false;
  if (cmsghdr* header = CMSG_FIRSTHDR(&message)) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(header), sizeof received);
    fd.reset(received);
  }
  return true;
}

PeerFrame failed(const std::string& why) {
  PeerFrame answer;
  std::snprintf(answer.text, sizeof answer.text, "%s", why.c_str());
  return answer;
}

Peer::Peer(const Environment& environment) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  socket_.reset(ends[0]);
  UniqueFd theirs(ends[1]);
  std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string argument = kPeerArgument;
  char* arguments[] = {program.data(), argument.data(), nullptr};
  std::vector<std::string> variables;
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  for (char** each = environ; *each; ++each) variables.emplace_back(*each);
  std::vector<char*> pointers;
  for (std::string& each : variables) pointers.push_back(each.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), kPeerSocket);
  EXPECT_EQ(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, pointers.data()),
            0);
  posix_spawn_file_actions_destroy(&actions);
}

Peer::~Peer() {
  socket_.reset();
  if (pid_ < 0) return;
  int status = 0;
  EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "peer's status " << status;
}

void Peer::tell(PeerFrame order, int fd) { EXPECT_TRUE(send_frame(socket_.get(), order, fd)); }

PeerFrame Peer::hear() {
  PeerFrame answer;
  UniqueFd none;
  const bool heard = receive_frame(socket_.get(), answer, none);
  EXPECT_TRUE(heard);
  return heard ? answer : failed("the peer is gone");
}

PeerFrame Peer::ask(PeerFrame order, int fd) {
  tell(order, fd);
  return hear();
}

PeerFrame Peer::open(const Chunk& chunk, PeerVerb verb) {
  auto handle = chunk.export_handle();
  if (!handle) return failed(handle.error().message);
  PeerFrame order{.verb = verb};
  order.numbers[0] = static_cast<std::uint64_t>(chunk.mode());
  order.numbers[1] = chunk.bytes();
  if (auto* fd = std::get_if<UniqueFd>(&*handle)) return ask(order, fd->get());
  order.handles[0] = std::get<IpcHandle>(*handle);
  return ask(order);
}

PeerFrame Peer::open(const EventRing& ring) {
  auto all = ring.export_handles();
  if (!all) return failed(all.error().message);
  for (const IpcHandle& each : *all) {
    PeerFrame order{.verb = PeerVerb::AddEvent};
    order.handles[0] = each;
    EXPECT_STREQ(ask(order).text, "");
  }
  return ask({.verb = PeerVerb::OpenEvents});
}

void Peer::kill() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace tensorferry::cuda
