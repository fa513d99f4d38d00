#include "stub_session.h"

#include <tensorferry/transport/version.h>

#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace tensorferry::server {
namespace {

constexpr std::chrono::milliseconds kStackDumpPatience{100};
// How often limits on execute() are looked at when there are any.
constexpr std::chrono::milliseconds kLimitTick{20};
// launch.py has faulthandler dump all stacks on this signal.
int stack_dump_signal() { return SIGRTMAX - 2; }

int poll_timeout(const Deadline& deadline) {
  if (!deadline) return -1;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
}

// "cpython 3.11.7, '/usr/bin/python3'"
std::string interpreter_of(const protocol::Hello& hello) {
  return std::string(hello.implementation) + " " + std::string(hello.version) + ", '" +
         std::string(hello.executable) + "'";
}

}  // namespace

StubSession::StubSession(StubProcess process, std::shared_ptr<ControlSocket> socket,
                         LinkOptions options, std::shared_ptr<Logger> logger, int stop_fd)
    : process_(std::move(process)),
      socket_(std::move(socket)),
      options_(std::move(options)),
      logger_(std::move(logger)),
      stop_fd_(stop_fd),
      stdout_(logger_, LogLevel::Info, options_.instance + " stdout"),
      stderr_(logger_, LogLevel::Info, options_.instance + " stderr") {}

StubSession::~StubSession() {
  if (alive_) ended("its session was dropped");
}

Result<std::unique_ptr<StubSession>> StubSession::start(
    const StubCommand& command, LinkOptions options, std::shared_ptr<SegmentAuthority> segments,
    ModelMemory memory, InstanceEvents& events, const std::shared_ptr<Logger>& logger, int stop_fd,
    std::chrono::milliseconds hello_patience) {
  auto sockets = ControlSocket::pair();
  if (!sockets) return std::unexpected(sockets.error());
  auto process = StubProcess::spawn(command, sockets->second.release());
  if (!process) return std::unexpected(process.error());
  std::unique_ptr<StubSession> session(new StubSession(
      std::move(*process), std::make_shared<ControlSocket>(std::move(sockets->first)), options,
      logger, stop_fd));
  Scratch scratch;
  auto hello = session->expect_hello(scratch, hello_patience);
  if (!hello) {
    hello.error().message += "\nIt ran '" + command.interpreter + "' (" + command.chosen_by +
                             "); a stub needs CPython 3.8 or later, which the model's parameter "
                             "TENSORFERRY_PYTHON can name.";
    return std::unexpected(hello.error());
  }
  if (hello->build_id != kBuildId) {
    return std::unexpected(session->ended(
        "its payload is build '" + std::string(hello->build_id) + "' and the server is build '" +
        std::string(kBuildId) + "': '" + command.launcher.string() + "', which " +
        interpreter_of(*hello) +
        " ran, belongs to another installation; set the payload path, or install tensorferry "
        "anew"));
  }
  logger->write({LogLevel::Verbose, {}, 0, options.instance, "runs in " + interpreter_of(*hello)});
  auto link = StubLink::open(std::move(options), session->socket_, std::move(segments),
                             std::move(memory), events, logger);
  if (!link) return std::unexpected(session->lost_socket(link.error()));
  session->link_ = std::move(*link);
  return session;
}

Result<protocol::Hello> StubSession::expect_hello(Scratch& scratch,
                                                  std::chrono::milliseconds patience) {
  Deadline deadline = Clock::now() + patience;
  while (!passed(deadline)) {
    std::array<pollfd, 5> fds{{{process_.pidfd(), POLLIN, 0},
                               {socket_->fd(), POLLIN, 0},
                               {stop_fd_, POLLIN, 0},
                               {stdout_open_ ? process_.stdout_fd() : -1, POLLIN, 0},
                               {stderr_open_ ? process_.stderr_fd() : -1, POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), poll_timeout(deadline)) < 0 && errno != EINTR) break;
    if (fds[3].revents) stdout_open_ = stdout_.read_from(process_.stdout_fd());
    if (fds[4].revents) stderr_open_ = stderr_.read_from(process_.stderr_fd());
    if (fds[1].revents & POLLIN) {
      auto message = socket_->receive(deadline);
      if (!message) return std::unexpected(lost_socket(message.error()));
      if (!*message) continue;
      if ((*message)->kind != protocol::ControlKind::Hello)
        return std::unexpected(ended("it did not begin with Hello"));
      auto hello = decode<protocol::Hello>((*message)->body, scratch);
      if (!hello) return std::unexpected(ended(hello.error().message));
      return hello;
    }
    if (fds[0].revents) return std::unexpected(ended(""));
    if (fds[2].revents) return std::unexpected(ended("it was told to stop while it started"));
  }
  return std::unexpected(
      ended("it did not say Hello within " + std::to_string(patience.count()) + " ms"));
}

Result<StubSession::Step> StubSession::step(const Deadline& deadline, bool stoppable) {
  std::array<pollfd, 6> fds{{{process_.pidfd(), POLLIN, 0},
                             {socket_->fd(), POLLIN, 0},
                             {stoppable ? stop_fd_ : -1, POLLIN, 0},
                             {stdout_open_ ? process_.stdout_fd() : -1, POLLIN, 0},
                             {stderr_open_ ? process_.stderr_fd() : -1, POLLIN, 0},
                             {link_ ? link_->woken_fd() : -1, POLLIN, 0}}};
  int count = ::poll(fds.data(), fds.size(), poll_timeout(deadline));
  if (count < 0 && errno != EINTR)
    return std::unexpected(ended(std::string("poll: ") + std::strerror(errno)));
  if (count <= 0) return Step::TimedOut;
  if (fds[3].revents) stdout_open_ = stdout_.read_from(process_.stdout_fd());
  if (fds[4].revents) stderr_open_ = stderr_.read_from(process_.stderr_fd());
  if (fds[1].revents) {
    auto message = socket_->receive(Clock::now());
    if (message && *message) {
      if (auto handled = on_control(std::move(**message)); !handled) {
        process_.kill_group();
        return std::unexpected(ended(handled.error().message));
      }
    } else if (!message) {
      return std::unexpected(lost_socket(message.error()));
    }
  }
  if (fds[0].revents) return std::unexpected(ended(""));
  if (fds[5].revents) link_->on_woken();
  if (link_ && link_->broken()) {
    // A socket that is closed may be a death that isn't told yet.
    const Error why = link_->why_broken();
    if (why.code == ErrorCode::Closed) return std::unexpected(lost_socket(why));
    process_.kill_group();
    return std::unexpected(ended(why.message));
  }
  return fds[2].revents ? Step::Stopped : Step::Went;
}

// The pidfd tells about deaths. A stub that lives on without its socket (a model that closes all
// descriptors) can no longer be led; a dying one is given a moment, so that its own end is what we
// report.
Error StubSession::lost_socket(const Error& why) {
  pollfd died{process_.pidfd(), POLLIN, 0};
  if (::poll(&died, 1, 100) != 0) return ended("");
  process_.kill_group();
  return ended(why.code == ErrorCode::Closed
                   ? "its control socket was closed while it ran (does the model close descriptors "
                     "that it did not open?), so it was killed"
                   : why.message);
}

Result<void> StubSession::on_control(ControlMessage message) {
  using protocol::ControlKind;
  scratch_.reset();
  auto with = [&]<class Message>(auto&& handle) -> Result<void> {
    auto decoded = decode_private<Message>(message.body, scratch_);
    if (!decoded) return std::unexpected(decoded.error());
    return handle(*decoded);
  };
  switch (message.kind) {
    case ControlKind::SegmentRequest:
      return with.template operator()<protocol::SegmentRequest>(
          [&](const auto& request) -> Result<void> {
            if (link_) link_->on_segment_request(request);
            return {};
          });
    case ControlKind::SegmentDropped:
      return with.template operator()<protocol::SegmentDropped>(
          [&](const auto& dropped) -> Result<void> {
            return link_ ? link_->on_stub_dropped_segment(dropped.segment) : Result<void>{};
          });
    case ControlKind::DeviceRequest:
      return with.template operator()<protocol::DeviceRequest>(
          [&](const auto& request) -> Result<void> {
            return link_ ? link_->on_device_request(request) : Result<void>{};
          });
    case ControlKind::ProbeReport:
      return with.template operator()<protocol::ProbeReport>(
          [&](const auto& report) -> Result<void> {
            return link_ ? link_->on_probe_report(report) : Result<void>{};
          });
    case ControlKind::ReadDevice:
      return with.template operator()<protocol::ReadDevice>(
          [&](const auto& request) -> Result<void> {
            return link_ ? link_->on_read_device(request) : Result<void>{};
          });
    case ControlKind::Log:
      return with.template operator()<protocol::Log>([&](const auto& log) -> Result<void> {
        logger_->write({log.level, log.file, log.line, options_.instance, log.text});
        return {};
      });
    case ControlKind::Reply:
      return with.template operator()<protocol::Reply>(
          [&](const auto& reply) { return on_reply(reply); });
    default:
      return failure(ErrorCode::Protocol, "it sent control message " +
                                              std::to_string(static_cast<int>(message.kind)) +
                                              ", which is not a stub's to send");
  }
}

Result<void> StubSession::on_reply(const protocol::Reply& reply) {
  if (reply.to != asked_ || answer_)
    return failure(ErrorCode::Protocol, "it replied to what it was not asked");
  if (reply_.size() + reply.text.size() > protocol::kMaxTextBytes) {
    return failure(ErrorCode::Protocol, "its reply is longer than " +
                                            std::to_string(protocol::kMaxTextBytes) + " bytes");
  }
  reply_ += reply.text;
  if (reply.more) return {};
  if (reply.failed) {
    answer_ = failure(reply.code, std::move(reply_));
  } else {
    answer_ = std::move(reply_);
  }
  reply_.clear();
  return {};
}

Result<std::string> StubSession::ask(protocol::ControlKind what, const Deadline& deadline,
                                     bool stoppable) {
  asked_ = what;
  answer_.reset();
  reply_.clear();
  while (!answer_) {
    auto went = step(deadline, stoppable);
    if (!went) return std::unexpected(went.error());
    if (*went == Step::Stopped) return failure(ErrorCode::Cancelled, "told to stop");
    if (*went == Step::TimedOut && passed(deadline))
      return failure(ErrorCode::DeadlineExceeded, "no reply in time");
  }
  asked_ = {};
  return *std::exchange(answer_, std::nullopt);
}

Result<std::string> StubSession::auto_complete(const std::string& model_path,
                                               const std::string& config,
                                               const Deadline& deadline) {
  if (auto sent = socket_->send(protocol::AutoComplete{model_path, config}, -1, deadline); !sent) {
    return std::unexpected(lost_socket(sent.error()));
  }
  return ask(protocol::ControlKind::AutoComplete, deadline, true);
}

Result<std::string> StubSession::load(const std::string& model_path, const std::string& args,
                                      const Deadline& deadline) {
  if (auto sent = socket_->send(protocol::Load{model_path, args}, -1, deadline); !sent) {
    return std::unexpected(lost_socket(sent.error()));
  }
  return ask(protocol::ControlKind::Load, deadline, true);
}

Result<void> StubSession::serve(const ExecuteLimits& limits) {
  const bool limited = limits.timeout.count() > 0 || limits.slow.count() > 0;
  std::optional<std::chrono::steady_clock::time_point> dumped;
  while (true) {
    auto went = step(limited ? Deadline(Clock::now() + kLimitTick) : Deadline{}, true);
    if (!went) return std::unexpected(went.error());
    if (*went == Step::Stopped) return {};
    if (limited) {
      if (auto within = check_limits(limits, dumped); !within) return within;
    }
  }
}

Result<void> StubSession::check_limits(
    const ExecuteLimits& limits, std::optional<std::chrono::steady_clock::time_point>& dumped) {
  auto since = link_->running_since();
  if (!since) return {};
  auto ran = std::chrono::steady_clock::now() - *since;
  if (limits.timeout.count() > 0 && ran > limits.timeout) {
    process_.signal(stack_dump_signal());
    // Its last words: where all its threads are.
    for (Deadline until = Clock::now() + kStackDumpPatience; !passed(until);) {
      if (auto went = step(until, false); !went) return std::unexpected(went.error());
    }
    process_.kill_group();
    return std::unexpected(ended("execute() ran longer than TENSORFERRY_EXECUTE_TIMEOUT_S (" +
                                 std::to_string(limits.timeout.count()) +
                                 " ms), so it was killed"));
  }
  if (limits.slow.count() > 0 && ran > limits.slow && dumped != since) {
    dumped = since;
    logger_->warning(options_.instance,
                     "execute() has been running for longer than TENSORFERRY_SLOW_EXECUTE_S (" +
                         std::to_string(limits.slow.count()) +
                         " ms); the stacks of all its threads follow on stderr");
    process_.signal(stack_dump_signal());
  }
  return {};
}

void StubSession::finish(const Deadline& deadline) {
  if (!alive_) return;
  if (link_ && link_->broken()) {
    ended("it broke the protocol");
    return;
  }
  if (auto sent = socket_->send(protocol::Finalize{}, -1, deadline); sent) {
    auto reply = ask(protocol::ControlKind::Finalize, deadline, false);
    if (!alive_) {
      if (!reply) logger_->error(options_.instance, reply.error().message);
      return;
    }
    if (!reply && reply.error().code != ErrorCode::DeadlineExceeded) {
      logger_->info(options_.instance, "Cannot finalize the model: " + reply.error().message);
    }
    // After its reply it exits by itself: atexit handlers and finalizers run.
    while (alive_ && !passed(deadline)) {
      if (!step(deadline, false)) return;
    }
    if (!alive_) return;
    logger_->warning(options_.instance, "did not exit in time after finalize and is killed");
  }
  process_.kill_group();
  ended("it was stopped");
}

// What it logged before it died is still in the socket. A bound, since what it started may hold the
// socket and write on.
void StubSession::drain_log() {
  constexpr int kMost = 10'000;
  for (int i = 0; i < kMost; ++i) {
    auto message = socket_->receive(Clock::now());
    if (!message || !*message) return;
    if ((*message)->kind == protocol::ControlKind::Log && !on_control(std::move(**message))) return;
  }
}

void StubSession::drain_output() {
  if (stdout_open_) stdout_.read_from(process_.stdout_fd());
  if (stderr_open_) stderr_.read_from(process_.stderr_fd());
  stdout_.finish();
  stderr_.finish();
}

void StubSession::await_group() {
  const auto left = process_.await_group();
  if (left.empty()) return;
  std::string numbers;
  for (pid_t pid : left) numbers += (numbers.empty() ? "" : ", ") + std::to_string(pid);
  logger_->warning(options_.instance, "what its stub started was killed and doesn't end (process " +
                                          numbers +
                                          "): the next stub may find memory or a device taken");
}

Error StubSession::ended(const std::string& reason) {
  if (!reason.empty()) process_.kill_group();
  ExitStatus status = process_.reap();
  alive_ = false;
  drain_log();
  drain_output();
  Error error;
  error.code = ErrorCode::StubDied;
  error.context = {options_.model, options_.instance, {}};
  error.message = "Stub process '" + options_.instance + "' is not healthy. It " +
                  (reason.empty() ? status.describe() : "was ended: " + reason) + ".";
  const bool greeted = link_ != nullptr;  // before, it is the launcher that ends, and says why
  if (reason.empty() && greeted) error.message += " " + status.advice();
  if (std::string words = stderr_.last_words(); !words.empty())
    error.message += " Its last words on stderr:\n" + words;
  socket_->shutdown();
  if (link_) link_->close(error);
  await_group();  // once callers have their errors
  return error;
}

}  // namespace tensorferry::server
