#include "helper.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

extern char** environ;

namespace tensorferry::gpu_probe {
namespace {

constexpr int kSocket = 30;  // the helper's descriptor
constexpr int kPatienceMs = 40'000;

constexpr Role kRoles[] = {{"map", map_and_answer},
                           {"map_read_only", map_read_only},
                           {"register", register_pages},
                           {"map_with_times", map_with_times},
                           {"record", record_and_wait_for_death},
                           {"write", write_and_wait_for_death},
                           {"capture", wait_in_a_capture}};

std::string_view name_of_variable(std::string_view text) { return text.substr(0, text.find('=')); }

std::vector<std::string> environment_with(const std::vector<std::string>& more) {
  std::vector<std::string> all = more;
  for (char** each = environ; *each; ++each)
    if (std::ranges::none_of(more, [&](const std::string& set) {
          return name_of_variable(set) == name_of_variable(*each);
        }))
      all.emplace_back(*each);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> all;
  for (std::string& each : strings) all.push_back(each.data());
  all.push_back(nullptr);
  return all;
}

// In a process that is the first of a PID namespace when it returns, with a /proc of its own, as a
// container has it; its maker only waits for it.
Result<void> enter_pid_namespace() {
  constexpr int kNew = CLONE_NEWPID | CLONE_NEWNS;
  if (::unshare(kNew) != 0 && ::unshare(CLONE_NEWUSER | kNew) != 0)
    return system_failure("unshare(CLONE_NEWPID)", errno);
  const pid_t child = ::fork();
  if (child < 0) return system_failure("fork", errno);
  if (child > 0) {
    ::waitpid(child, nullptr, 0);
    ::_exit(0);
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The driver looks itself up there by its PID.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("proc", "/proc", "proc", 0, nullptr) != 0)
    return system_failure("mount(/proc)", errno);
  return {};
}

}  // namespace

void set_text(Message& message, std::string_view text) {
  const std::size_t length = std::min(text.size(), sizeof message.text - 1);
  std::memcpy(message.text, text.data(), length);
  message.text[length] = 0;
}

Result<void> Link::send(const Message& message, int fd) const {
  iovec io{const_cast<Message*>(&message), sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr header{};
  header.msg_iov = &io;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    *rights = {.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  if (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL) != sizeof message)
    return system_failure("sendmsg", errno);
  return {};
}

Result<Message> Link::receive(UniqueFd* fd) const {
  pollfd ready{socket_.get(), POLLIN, 0};
  if (::poll(&ready, 1, kPatienceMs) != 1)
    return failure(ErrorCode::DeadlineExceeded, "the other process says nothing");
  Message message;
  iovec io{&message, sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &io;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  if (::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC) != sizeof message)
    return failure(ErrorCode::Closed, "the other process has ended");
  if (const cmsghdr* rights = CMSG_FIRSTHDR(&header)) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(rights), sizeof received);
    UniqueFd owned(received);
    if (fd) *fd = std::move(owned);
  }
  if (message.text[0] != 0) return failure(ErrorCode::Unavailable, message.text);
  return message;
}

Result<Helper> Helper::start(const char* role, const Place& place) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return system_failure("socketpair", errno);
  Link link{UniqueFd(ends[0])};
  const UniqueFd theirs(ends[1]);
  std::vector<std::string> arguments = {
      std::filesystem::read_symlink("/proc/self/exe").string(),
      place.new_pid_namespace ? kNewNamespaceArgument : kHelperArgument, role};
  std::vector<std::string> environment = environment_with(place.environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), kSocket);
  pid_t pid = -1;
  const int code = ::posix_spawn(&pid, arguments[0].c_str(), &actions, nullptr,
                                 pointers(arguments).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (code != 0) return system_failure("posix_spawn", code);
  return Helper(std::move(link), pid);
}

Helper::~Helper() { kill(); }

void Helper::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

Result<Message> Helper::ask(const Message& message, int fd) const {
  if (auto sent = link_.send(message, fd); !sent) return std::unexpected(sent.error());
  return link_.receive();
}

int run_helper(std::string_view argument, std::string_view role) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const Link link{UniqueFd(kSocket)};
  const auto* found = std::ranges::find(kRoles, role, &Role::name);
  if (found == std::end(kRoles)) return 2;
  Result<void> done;
  if (argument == kNewNamespaceArgument) done = enter_pid_namespace();
  if (done) done = found->run(link);
  if (done) return 0;
  Message answer;
  set_text(answer, done.error().message);
  (void)link.send(answer);
  return 1;
}

}  // namespace tensorferry::gpu_probe
