#include "stub_link.h"

#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/trace.h>
#include <tensorferry/transport/version.h>

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <cstdio>

namespace tensorferry::stub {
namespace {

constexpr std::chrono::seconds kPatience{30};
constexpr std::chrono::milliseconds kSocketTick{500};
constexpr std::chrono::milliseconds kSweepTick{1};
// More than can be inside at a time; numbers never repeat, so that an old one does no harm.
constexpr std::size_t kRememberedCancellations = 4096;

[[noreturn]] void die_with_server() {
  ::kill(0, SIGKILL);
  ::_exit(1);
}

void on_parent_death(int) { ::kill(0, SIGKILL); }

void watch_parent() {
  struct sigaction action{};
  action.sa_handler = on_parent_death;
  int signal = SIGRTMAX - 1;
  ::sigaction(signal, &action, nullptr);
  ::prctl(PR_SET_PDEATHSIG, signal);
}

std::uint64_t input_bytes(const protocol::Execute& message) {
  std::uint64_t bytes = 0;
  for (const auto& request : message.requests)
    for (const auto& input : request.inputs) bytes += input.memory.bytes;
  return bytes;
}

[[noreturn]] void broken(const Error& error) {
  std::fprintf(stderr, "tensorferry stub: %s\n", error.message.c_str());
  std::fflush(stderr);
  ::_exit(70);
}

}  // namespace

Result<std::unique_ptr<StubLink>> StubLink::open(int control_fd, const Interpreter& interpreter) {
  ::fcntl(control_fd, F_SETFD, FD_CLOEXEC);
  watch_parent();
  std::unique_ptr<StubLink> link(new StubLink(UniqueFd(control_fd)));
  if (auto started = link->start(interpreter); !started) return std::unexpected(started.error());
  return link;
}

StubLink::~StubLink() = default;

Result<void> StubLink::start(const Interpreter& interpreter) {
  protocol::Hello hello;
  hello.build_id = kBuildId;
  hello.pid = ::getpid();
  hello.implementation = interpreter.implementation;
  hello.version = interpreter.version;
  hello.executable = interpreter.executable;
  if (auto sent = socket_.send(hello); !sent) return sent;
  auto message = socket_.receive(Clock::now() + kPatience);
  if (!message) return std::unexpected(message.error());
  if (!*message) return failure(ErrorCode::DeadlineExceeded, "the server did not answer");
  Scratch scratch;
  if ((*message)->kind != protocol::ControlKind::Welcome)
    return failure(ErrorCode::Protocol, "the server did not begin with Welcome");
  auto welcome = decode<protocol::Welcome>((*message)->body, scratch);
  if (!welcome) return std::unexpected(welcome.error());
  if (welcome->build_id != kBuildId)
    return failure(ErrorCode::Protocol, "the server is another build");
  if (!is_ring_capacity(welcome->ring_capacity)) {
    return failure(ErrorCode::Protocol, "the server offers a ring of " +
                                            std::to_string(welcome->ring_capacity) + " bytes");
  }
  instance_ = welcome->instance;
  name_traced_process(instance_);
  const std::size_t bytes = Segment::rounded(channel_bytes(welcome->ring_capacity));
  auto ring = Segment::map(0, std::move((*message)->fd), bytes);
  if (!ring) return std::unexpected(ring.error());
  ArenaOptions options{welcome->arena_initial_bytes, welcome->arena_growth_bytes,
                       welcome->arena_max_bytes};
  arena_ = std::make_unique<Arena>(
      options, [this](std::size_t size) { return grow(size); },
      [this](SegmentId id) { (void)socket_.send(protocol::SegmentDropped{id}); });
  lent_ = std::make_unique<LeaseBook>(*arena_);
  make_devices();
  make_pins();
  make_channel(std::move(*ring), welcome->ring_capacity);
  control_ = std::thread([this] { serve_control(); });
  background_ = std::thread([this] { channel_->inbox().serve_background(); });
  control_.detach();
  background_.detach();
  return {};
}

void StubLink::make_channel(std::shared_ptr<Segment> ring, std::size_t capacity) {
  Channel::Options channel;
  channel.ring_capacity = capacity;
  channel.spill_arena = arena_.get();
  channel.resolve = [this](const protocol::MemoryRef& memory) {
    return resolve(memory.place, memory.offset, memory.bytes);
  };
  channel.issue_lease = [this](BlockId id) {
    Block block = arena_->lookup(id).value();
    return lend(*arena_, block, block.data, block.bytes);
  };
  channel_ =
      std::make_unique<Channel>(std::move(ring), Side::Stub, std::move(channel),
                                [this](const Received& received) { return on_message(received); });
  channel_->set_release_notify([this] { (void)channel_->flush_releases(); });
}

Result<std::shared_ptr<Segment>> StubLink::grow(std::size_t bytes) {
  const std::uint64_t number = replies_.next_number();
  if (auto sent = socket_.send(protocol::SegmentRequest{number, bytes}); !sent)
    return std::unexpected(sent.error());
  auto granted = replies_.wait<std::shared_ptr<Segment>>(number, Clock::now() + kPatience);
  if (!granted && granted.error().code == ErrorCode::DeadlineExceeded)
    return failure(ErrorCode::OutOfSharedMemory, "the server did not provide a segment in time");
  return granted;
}

Result<SegmentMap::Range> StubLink::resolve(SegmentId place, std::uint64_t offset,
                                            std::uint64_t bytes) {
  if (!host_segments_.find(place)) {
    std::unique_lock lock(mutex_);
    segments_changed_.wait_for(lock, kPatience,
                               [&] { return host_segments_.find(place) != nullptr; });
  }
  return host_segments_.resolve(place, offset, bytes);
}

std::uint64_t StubLink::lend(Arena& arena, const Block& block, std::byte* data, std::size_t bytes) {
  std::scoped_lock lock(lent_mutex_);
  return lent_->lend_held({block.id, block.segment,
                           block.offset + static_cast<std::uint64_t>(data - block.data), bytes,
                           data, &arena});
}

void StubLink::take_back(std::uint64_t lease) {
  std::scoped_lock lock(lent_mutex_);
  expects(lent_->release(lease), "what is taken back was lent");
}

void StubLink::release_input(std::uint64_t lease) { channel_->release_later(lease); }

Result<void> StubLink::on_releases(std::span<const protocol::LeaseRelease> releases) {
  std::scoped_lock lock(lent_mutex_);
  for (const auto& release : releases) {
    if (!lent_->release(release.lease))
      return failure(ErrorCode::Protocol, "the server gives back what it doesn't hold");
  }
  return {};
}

Result<void> StubLink::on_message(const Received& message) {
  if (message.kind == protocol::RecordKind::Execute) {
    auto execute = decode_private<protocol::Execute>(message.body, message.scratch);
    if (!execute) return std::unexpected(execute.error());
    if (auto released = on_releases(execute->releases); !released) return released;
    if (auto seen = devices_->seen(execute->seen); !seen) return seen;
    return on_execute(*execute);
  }
  if (message.kind == protocol::RecordKind::Release) {
    auto release = decode_private<protocol::Release>(message.body, message.scratch);
    if (!release) return std::unexpected(release.error());
    if (auto released = on_releases(release->releases); !released) return released;
    return devices_->seen(release->seen);
  }
  if (message.kind == protocol::RecordKind::Cancel) {
    auto cancel = decode_private<protocol::Cancel>(message.body, message.scratch);
    if (!cancel) return std::unexpected(cancel.error());
    on_cancel(cancel->request);
  }
  return {};
}

void StubLink::on_cancel(std::uint64_t request) {
  std::scoped_lock lock(mutex_);
  cancelled_.push_back(request);
  if (cancelled_.size() > kRememberedCancellations) cancelled_.pop_front();
}

bool StubLink::is_cancelled(std::uint64_t request) const {
  std::scoped_lock lock(mutex_);
  return std::ranges::find(cancelled_, request) != cancelled_.end();
}

Result<void> StubLink::on_execute(const protocol::Execute& message) {
  Span span(Phase::Receive, message.batch);
  if (span) span.set_bytes(input_bytes(message));
  auto batch = read_batch(message, [this](const protocol::MemoryRef& memory) {
    return resolve(memory.place, memory.offset, memory.bytes);
  });
  if (!batch) return std::unexpected(batch.error());
  std::scoped_lock lock(mutex_);
  events_.push_back(std::move(*batch));
  arrived_.signal();
  return {};
}

void StubLink::serve_control() {
  Scratch scratch;
  while (true) {
    // A model that closes descriptors it did not open closes ours too; while poll() sleeps on it
    // the kernel keeps it open and the server can't see it. So look up now and then.
    auto message = socket_.receive(Clock::now() + kSocketTick);
    if (message && !*message) continue;
    if (!message) {
      if (message.error().code == ErrorCode::Closed) die_with_server();
      if (!socket_.intact()) return;  // it was closed here: the server sees that and ends us
      broken(message.error());
    }
    scratch.reset();
    if (auto handled = on_control(std::move(**message), scratch); !handled) broken(handled.error());
  }
}

void StubLink::push(Command command) {
  std::scoped_lock lock(mutex_);
  events_.push_back(std::move(command));
  arrived_.signal();
  channel_->inbox().interrupt();
}

Result<void> StubLink::on_control(ControlMessage message, Scratch& scratch) {
  using protocol::ControlKind;
  switch (message.kind) {
    case ControlKind::AutoComplete: {
      auto command = decode_private<protocol::AutoComplete>(message.body, scratch);
      if (!command) return std::unexpected(command.error());
      push({message.kind, std::string(command->model_path), std::string(command->config)});
      return {};
    }
    case ControlKind::Load: {
      auto command = decode_private<protocol::Load>(message.body, scratch);
      if (!command) return std::unexpected(command.error());
      push({message.kind, std::string(command->model_path), std::string(command->args)});
      return {};
    }
    case ControlKind::Finalize:
      push({message.kind, {}, {}});
      return {};
    case ControlKind::Trim: {
      std::scoped_lock lock(mutex_);
      trim_wanted_ = true;
      arrived_.signal();
      channel_->inbox().interrupt();
      return {};
    }
    default:
      return on_memory(message, scratch);
  }
}

// What the server gave back before it asked lies in the ring: it is read first, so that its blocks
// are idle.
void StubLink::trim() {
  (void)channel_->inbox().poll();
  arena_->trim();
  devices_->trim();
}

std::optional<Event> StubLink::wait(const Deadline& deadline) {
  while (true) {
    bool trim_now = false;
    std::optional<Event> event;
    {
      std::scoped_lock lock(mutex_);
      if (!events_.empty()) {
        event = std::move(events_.front());
        events_.erase(events_.begin());
      } else {
        trim_now = std::exchange(trim_wanted_, false);
        arrived_.reset();
      }
    }
    if (event) {
      if (std::holds_alternative<InboundBatch>(*event)) pins_->refresh();
      return event;
    }
    if (trim_now) trim();
    Deadline until = deadline;
    if (devices_->sweep()) {
      const auto soon = Clock::now() + kSweepTick;
      until = deadline ? std::min(*deadline, soon) : soon;
    }
    (void)channel_->flush_releases();
    auto status = channel_->inbox().wait(arrived_, until);
    if (status == WaitStatus::TimedOut) {
      if (!passed(deadline)) continue;
      return std::nullopt;
    }
    if (status == WaitStatus::Failed) broken(channel_->inbox().error());
  }
}

Result<void> StubLink::reply(protocol::ControlKind to, bool failed, std::string_view text) {
  constexpr std::size_t kPart = 64 << 10;
  do {
    std::string_view part = text.substr(0, kPart);
    text.remove_prefix(part.size());
    protocol::Reply reply{to, !text.empty(), failed, ErrorCode::Internal, part};
    if (auto sent = socket_.send(reply); !sent) return sent;
  } while (!text.empty());
  return {};
}

Result<void> StubLink::log(protocol::LogLevel level, std::string_view file, std::uint32_t line,
                           std::string_view text) {
  return socket_.send(protocol::Log{level, file.substr(0, 4000), line, text.substr(0, 64 << 10)});
}

Result<void> StubLink::respond(const protocol::Responses& message) {
  return channel_->send(message, Urgency::Urgent);
}

}  // namespace tensorferry::stub
