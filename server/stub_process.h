// The process of a stub, and only the process: start, watch, kill, reap. What is said to it is
// StubLink's business.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/unique_fd.h>

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tensorferry::server {

struct StubCommand {
  std::string interpreter;                                        // path of a CPython
  std::string chosen_by;                                          // who named it, for errors
  std::filesystem::path launcher;                                 // payload/launch.py
  std::map<std::string, std::optional<std::string>> environment;  // added to ours; nullopt removes
};

// How a process ended.
struct ExitStatus {
  int code = 0;  // exit code, when signal == 0
  int signal = 0;
  // "was killed by signal 9 (SIGKILL)", "exited with code 3"
  std::string describe() const;
  // A sentence with where to look, for an end that nobody of ours asked for.
  std::string advice() const;
};

// Leads a process group of its own; everything that it started is killed with it. Used by the one
// thread that spawned it, which must live as long as the stub: PR_SET_PDEATHSIG is tied to that
// thread. Move-only.
class StubProcess {
 public:
  // `control` becomes the child's only inherited descriptor besides stdin (/dev/null), stdout and
  // stderr (pipes).
  static Result<StubProcess> spawn(const StubCommand& command, UniqueFd control);
  StubProcess(StubProcess&&) noexcept = default;
  StubProcess& operator=(StubProcess&&) noexcept = default;
  ~StubProcess();  // kills and reaps what is left

  pid_t pid() const noexcept { return pid_; }
  int pidfd() const noexcept { return pidfd_.get(); }       // readable when the process has ended
  int stdout_fd() const noexcept { return stdout_.get(); }  // non-blocking
  int stderr_fd() const noexcept { return stderr_.get(); }

  void signal(int number) const noexcept;  // to the process only
  void kill_group() const noexcept;        // SIGKILL to it and all of its group
  // Kills what is left of its group, then reaps it. Blocks until it has ended.
  ExitStatus reap();
  // After reap(): waits until what it started has ended too, which its successor must not meet.
  // Returns what still runs after seconds.
  std::vector<pid_t> await_group() const;

 private:
  StubProcess(pid_t pid, UniqueFd pidfd, UniqueFd out, UniqueFd err)
      : pid_(pid), pidfd_(std::move(pidfd)), stdout_(std::move(out)), stderr_(std::move(err)) {}

  pid_t pid_ = -1;
  UniqueFd pidfd_;  // none once reaped
  UniqueFd stdout_;
  UniqueFd stderr_;
};

}  // namespace tensorferry::server
