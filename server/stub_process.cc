#include "stub_process.h"

#include <tensorferry/transport/deadline.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

namespace tensorferry::server {
namespace {

// Where the stub finds its control socket; launch.py is told the number.
constexpr int kControlFd = 3;
// How long a restart waits for processes that were killed: with much memory or a GPU they take
// seconds to end.
constexpr std::chrono::seconds kLongestExit{10};

struct Pipe {
  UniqueFd read, write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return system_failure("pipe2 for a stub's output", errno);
  Pipe pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
  ::fcntl(fds[0], F_SETFL, O_NONBLOCK);
  return pipe;
}

std::vector<std::string> merged_environment(const StubCommand& command) {
  std::vector<std::string> result;
  for (char** entry = environ; entry && *entry; ++entry) {
    std::string_view text(*entry);
    if (!command.environment.contains(std::string(text.substr(0, text.find('=')))))
      result.emplace_back(text);
  }
  for (const auto& [key, value] : command.environment) {
    if (value) result.push_back(key + "=" + *value);
  }
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// posix_spawn's two attribute objects, with their destructors.
struct SpawnSetup {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnSetup() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnSetup() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;
};

void set_up(SpawnSetup& setup, int control, int out, int err) {
  posix_spawn_file_actions_addopen(&setup.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&setup.actions, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&setup.actions, err, STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&setup.actions, control, kControlFd);
  // Whatever else the host has open without close-on-exec is no business of a model's.
  posix_spawn_file_actions_addclosefrom_np(&setup.actions, kControlFd + 1);
  // A group of its own: a terminal's Ctrl-C is the server's business, and killing the group takes
  // along whatever the model started. Signals as a fresh program expects them.
  posix_spawnattr_setpgroup(&setup.attributes, 0);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&setup.attributes, &none);
  posix_spawnattr_setsigdefault(&setup.attributes, &all);
  posix_spawnattr_setflags(&setup.attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

// dup2 onto itself would keep close-on-exec: descriptors that sit on 0..3 move out of the way.
Result<UniqueFd> above_standard(UniqueFd fd) {
  if (fd.get() > kControlFd) return fd;
  int moved = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, kControlFd + 1);
  if (moved < 0) return system_failure("fcntl(F_DUPFD_CLOEXEC)", errno);
  return UniqueFd(moved);
}

// Also reaps what became ours when its parent died: a server may be its container's init.
bool group_is_empty(pid_t group) noexcept {
  while (::waitpid(-group, nullptr, WNOHANG) > 0) {
  }
  return ::kill(-group, 0) != 0;
}

// Without zombies, which a PID 1 that doesn't reap would keep for ever.
std::vector<pid_t> running_members(pid_t group) {
  std::vector<pid_t> result;
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::ifstream file(entry->path() / "stat");
    std::string line;
    std::getline(file, line);
    const auto name_end = line.rfind(')');  // the name itself may hold anything
    if (name_end == std::string::npos) continue;
    std::istringstream fields(line.substr(name_end + 1));
    char state = 0;
    pid_t parent = 0, its_group = 0, pid = 0;
    if (fields >> state >> parent >> its_group && its_group == group && state != 'Z' &&
        std::istringstream(line) >> pid)
      result.push_back(pid);
  }
  return result;
}

}  // namespace

std::string ExitStatus::describe() const {
  if (signal == 0) return "exited with code " + std::to_string(code);
  const char* name = ::sigabbrev_np(signal);
  return "was killed by signal " + std::to_string(signal) +
         (name ? " (SIG" + std::string(name) + ")" : "");
}

std::string ExitStatus::advice() const {
  switch (signal) {
    case 0:
      return "The model, or a library that it uses, ended its process.";
    case SIGKILL:
      return "If nobody killed it, the kernel did for want of memory (see dmesg): give it more, or "
             "lower the model's batch size or count of instances.";
    case SIGSEGV:
    case SIGBUS:
    case SIGILL:
    case SIGFPE:
    case SIGABRT:
      return "Native code that the model called crashed; its last words have Python's stack then.";
    default:
      return "Somebody sent it that signal.";
  }
}

Result<StubProcess> StubProcess::spawn(const StubCommand& command, UniqueFd control) {
  auto out = make_pipe();
  if (!out) return std::unexpected(out.error());
  auto err = make_pipe();
  if (!err) return std::unexpected(err.error());
  auto control_high = above_standard(std::move(control));
  auto out_high = above_standard(std::move(out->write));
  auto err_high = above_standard(std::move(err->write));
  for (auto* fd : {&control_high, &out_high, &err_high}) {
    if (!*fd) return std::unexpected(fd->error());
  }

  SpawnSetup setup;
  set_up(setup, control_high->get(), out_high->get(), err_high->get());
  std::vector<std::string> arguments{command.interpreter, command.launcher.string(),
                                     std::to_string(kControlFd)};
  std::vector<std::string> environment = merged_environment(command);
  pid_t pid = -1;
  int error = ::posix_spawn(&pid, command.interpreter.c_str(), &setup.actions, &setup.attributes,
                            pointers(arguments).data(), pointers(environment).data());
  if (error != 0)
    return system_failure("starting the interpreter '" + command.interpreter + "'", error);
  int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    int saved = errno;
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return system_failure("pidfd_open (Linux 5.4 or later is needed)", saved);
  }
  ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  return StubProcess(pid, UniqueFd(pidfd), std::move(out->read), std::move(err->read));
}

StubProcess::~StubProcess() {
  if (!pidfd_) return;
  kill_group();
  reap();
  await_group();
}

void StubProcess::signal(int number) const noexcept {
  if (pidfd_) ::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0);
}

void StubProcess::kill_group() const noexcept {
  // The leader is not reaped yet, so its number still names this group. It may have changed groups
  // itself.
  if (!pidfd_) return;
  ::kill(-pid_, SIGKILL);
  signal(SIGKILL);
}

ExitStatus StubProcess::reap() {
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 &&
         errno == EINTR) {
  }
  ::kill(-pid_, SIGKILL);  // what it started goes with it
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pidfd_.reset();
  ExitStatus result;
  if (WIFSIGNALED(status)) {
    result.signal = WTERMSIG(status);
  } else {
    result.code = WEXITSTATUS(status);
  }
  return result;
}

std::vector<pid_t> StubProcess::await_group() const {
  using std::chrono::milliseconds;
  const Deadline soon = Clock::now() + milliseconds(500), end = Clock::now() + kLongestExit;
  for (; !passed(soon); std::this_thread::sleep_for(milliseconds(1))) {
    if (group_is_empty(pid_)) return {};
  }
  while (true) {
    if (group_is_empty(pid_)) return {};
    auto running = running_members(pid_);
    if (running.empty() || passed(end)) return running;
    std::this_thread::sleep_for(milliseconds(50));
  }
}

}  // namespace tensorferry::server
