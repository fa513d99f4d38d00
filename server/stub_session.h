// One life of one stub, on its supervisor's thread: start, handshake, load, serve, end. Polls
// everything that can happen to it (its death, its control socket, its output, being told to stop)
// in one place.
#pragma once

#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/log.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "line_log.h"
#include "stub_link.h"
#include "stub_process.h"

namespace tensorferry::server {

// Limits that a model may set; zero means none.
struct ExecuteLimits {
  std::chrono::milliseconds timeout{0};  // TENSORFERRY_EXECUTE_TIMEOUT_S: then the stub is killed
  std::chrono::milliseconds slow{
      0};  // TENSORFERRY_SLOW_EXECUTE_S: then its Python stacks are logged once
};

// One thread, the one that created it; it must live as long as the stub does (StubProcess).
class StubSession {
 public:
  // An interpreter that says nothing for this long is not going to (a cold disk takes seconds).
  static constexpr std::chrono::milliseconds kHelloPatience{60'000};

  // Starts the process and shakes hands. `stop_fd` becomes readable when the supervisor shall stop.
  static Result<std::unique_ptr<StubSession>> start(
      const StubCommand& command, LinkOptions options, std::shared_ptr<SegmentAuthority> segments,
      ModelMemory memory, InstanceEvents& events, const std::shared_ptr<Logger>& logger,
      int stop_fd, std::chrono::milliseconds hello_patience = kHelloPatience);
  ~StubSession();

  // Asks for AutoComplete, Load or Finalize and waits for the answer, serving meanwhile. Errors:
  // what the stub replied, its death, DeadlineExceeded, Cancelled when told to stop (not for
  // Finalize).
  Result<std::string> auto_complete(const std::string& model_path, const std::string& config,
                                    const Deadline& deadline);
  Result<std::string> load(const std::string& model_path, const std::string& args,
                           const Deadline& deadline);

  // Serves until the stub has ended (an error that says how) or it was told to stop (ok).
  Result<void> serve(const ExecuteLimits& limits);
  // Finalizes and waits for the exit; kills when the deadline passes. Returns how it ended; an
  // error of finalize() is logged only.
  void finish(const Deadline& deadline);

  const std::shared_ptr<StubLink>& link() const noexcept { return link_; }
  pid_t pid() const noexcept { return process_.pid(); }

 private:
  StubSession(StubProcess process, std::shared_ptr<ControlSocket> socket, LinkOptions options,
              std::shared_ptr<Logger> logger, int stop_fd);
  enum class Step { Went, TimedOut, Stopped };
  Result<protocol::Hello> expect_hello(Scratch& scratch, std::chrono::milliseconds patience);
  Result<std::string> ask(protocol::ControlKind what, const Deadline& deadline, bool stoppable);
  // Handles what happens within the deadline, at least once. An error: the stub has ended or must
  // end.
  Result<Step> step(const Deadline& deadline, bool stoppable);
  Result<void> on_control(ControlMessage message);
  Result<void> on_reply(const protocol::Reply& reply);
  Result<void> check_limits(const ExecuteLimits& limits,
                            std::optional<std::chrono::steady_clock::time_point>& dumped);
  // Reaps, closes the link, and says what happened, with `reason` if it was our doing.
  Error ended(const std::string& reason);
  Error lost_socket(const Error& why);
  void drain_log();
  void drain_output();
  // Warns of what doesn't end although it was killed.
  void await_group();

  StubProcess process_;
  std::shared_ptr<ControlSocket> socket_;
  const LinkOptions options_;
  std::shared_ptr<Logger> logger_;
  const int stop_fd_;
  std::shared_ptr<StubLink> link_;
  LineLog stdout_;
  LineLog stderr_;
  bool stdout_open_ = true;
  bool stderr_open_ = true;
  bool alive_ = true;
  Scratch scratch_;
  std::string reply_;  // parts so far
  std::optional<Result<std::string>> answer_;
  protocol::ControlKind asked_{};
};

}  // namespace tensorferry::server
