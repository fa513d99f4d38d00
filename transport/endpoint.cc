#include <tensorferry/transport/endpoint.h>
#include <tensorferry/transport/version.h>

#include <string>
#include <system_error>
#include <utility>

#include "endpoint_impl.h"

namespace tensorferry {
namespace {

constexpr std::size_t kLargestArena = std::size_t{1} << 46;

Error gone() {
  return {ErrorCode::Closed, "the other end was closed or its process has ended", {}};
}
Error void_after_fork() {
  return {ErrorCode::Closed,
          "this end belongs to the process that forked; open a pair of its own in the child",
          {}};
}

// Also what the first end says is checked by this: nothing is mapped or computed with before.
Result<void> check(const EndpointOptions& options, ErrorCode code) {
  if (!is_ring_capacity(options.ring_capacity)) {
    return failure(code, "a ring of " + std::to_string(options.ring_capacity) +
                             " bytes: it must be a power of two from 4096 to 1 GiB");
  }
  const ArenaOptions& arena = options.arena;
  if (arena.max_bytes > kLargestArena || arena.initial_bytes > kLargestArena ||
      arena.growth_bytes > kLargestArena) {
    return failure(code, "an arena of " + std::to_string(arena.max_bytes) + " bytes (first " +
                             std::to_string(arena.initial_bytes) + ", growing by " +
                             std::to_string(arena.growth_bytes) + ") is beyond all memory");
  }
  return {};
}

Result<EndpointOptions> options_of(const ControlMessage& message) {
  Scratch scratch;
  if (message.kind != protocol::ControlKind::Welcome)
    return failure(ErrorCode::Protocol, "the first end did not begin with its greeting");
  auto welcome = decode_private<protocol::Welcome>(message.body, scratch);
  if (!welcome) return std::unexpected(welcome.error());
  if (welcome->build_id != kBuildId) {
    return failure(ErrorCode::Protocol, "the first end is tensorferry " +
                                            std::string(welcome->build_id) + ", this one " +
                                            std::string(kBuildId) +
                                            ": they belong to different installations");
  }
  EndpointOptions options;
  options.ring_capacity = welcome->ring_capacity;
  options.arena.initial_bytes = welcome->arena_initial_bytes;
  options.arena.growth_bytes = welcome->arena_growth_bytes;
  options.arena.max_bytes = welcome->arena_max_bytes;
  if (auto sane = check(options, ErrorCode::Protocol); !sane) return std::unexpected(sane.error());
  return options;
}

}  // namespace

// ---------------------------------------------------------------------------- opening and closing
Endpoint::Impl::Impl(EndRole role, const EndpointOptions& options, ControlSocket socket,
                     std::shared_ptr<Segment> ring)
    : segments(std::move(socket), role, options.arena.max_bytes),
      devices(options.devices, role, segments, options.device_arena,
              [this] { channel.inbox().poll(); }),
      arena(
          options.arena, [this](std::size_t bytes) { return segments.provide(bytes); },
          [this](SegmentId id) { segments.dropped(id); }),
      channel(std::move(ring), role == EndRole::First ? Side::Server : Side::Stub,
              channel_options(options.ring_capacity),
              [this](const Received& message) { return on_message(message); }),
      lent(arena),
      fork_registration(register_fork_participant(*this)) {
  channel.set_release_notify([this] { (void)channel.flush_releases(); });
  segments.set_others([this](ControlMessage message, Scratch& scratch) {
    return devices.handle(std::move(message), scratch);
  });
}

Channel::Options Endpoint::Impl::channel_options(std::size_t ring_capacity) {
  Channel::Options options;
  options.ring_capacity = ring_capacity;
  options.spill_arena = &arena;
  options.resolve = [this](const protocol::MemoryRef& memory) { return segments.resolve(memory); };
  options.issue_lease = [this](BlockId id) {
    const Block block = arena.lookup(id).value();
    std::scoped_lock lock(mutex);
    return lent.lend_held({id, block.segment, block.offset, block.bytes, block.data});
  };
  return options;
}

Result<std::shared_ptr<Endpoint::Impl>> Endpoint::Impl::open(EndRole role,
                                                             const EndpointOptions& options,
                                                             ControlSocket socket,
                                                             std::shared_ptr<Segment> ring) {
  auto impl = std::make_shared<Impl>(role, options, std::move(socket), std::move(ring));
  if (auto started = impl->start(); !started) return std::unexpected(started.error());
  return impl;
}

Result<void> Endpoint::Impl::start() {
  try {
    control = std::thread([this] { serve_peer(); });
    background = std::thread([this] { channel.inbox().serve_background(); });
  } catch (const std::system_error& error) {
    close({ErrorCode::System, "no thread could be started", {}});
    join();
    return failure(ErrorCode::System,
                   std::string("starting a thread of a connection's end: ") + error.what());
  }
  return {};
}

Result<void> Endpoint::Impl::may_send() {
  if (inherited()) return std::unexpected(void_after_fork());
  if (channel.inbox().stopped()) return std::unexpected(broken_off());
  std::scoped_lock lock(mutex);
  if (ended) return std::unexpected(*ended);
  return {};
}

// Nothing is read any more, be it that this end was closed or that the peer broke the protocol:
// then it learns of that.
Error Endpoint::Impl::broken_off() {
  segments.shutdown();
  return channel.inbox().error();
}

void Endpoint::Impl::close(Error why) {
  {
    std::scoped_lock lock(mutex);
    closed = true;
    if (!ended) ended = why;
    arrived.signal();
  }
  channel.close(std::move(why));
  devices.stop_recording();
  segments.shutdown();
}

void Endpoint::Impl::join() {
  if (control.joinable()) control.join();
  if (background.joinable()) background.join();
  devices.cancel({ErrorCode::Closed, "this end was closed", {}});
  std::deque<ArrivalPtr> unread;  // they hold the Impl, and let go outside its lock
  std::scoped_lock lock(mutex);
  unread.swap(received);
}

void Endpoint::Impl::serve_peer() {
  Error why = segments.serve();
  bury_peer(why.code == ErrorCode::Closed ? gone() : std::move(why));
}

// The peer's holds are void; what is held here of the peer's stays mapped by its holders, and what
// it sent before it ended is still to be received.
void Endpoint::Impl::bury_peer(Error why) {
  const bool broke_off = why.code != ErrorCode::Closed;
  if (!broke_off) devices.peer_is_gone();
  devices.stop_recording();
  {
    std::scoped_lock lock(mutex);
    if (!ended) ended = why;
    arrived.signal();
  }
  if (broke_off) {
    channel.close(why);
    segments.shutdown();
  }
  channel.close_sending(std::move(why));
  channel.inbox().interrupt();
  // What it gave back last is still ours to find: its holds are void only once all that it sent is
  // read.
  channel.inbox().settle({});
  void_loans();
  std::scoped_lock lock(mutex);
  lent.clear();
}

// ------------------------------------------------------------------------------------ around fork
void Endpoint::Impl::before_fork() noexcept {
  mutex.lock();
  arena.lock_for_fork();
}

void Endpoint::Impl::collect(std::vector<Mapping>& mappings) {
  collect_arena(arena, mappings);
  for (const auto& [lease, range] : held) {
    const Segment& segment = *range.segment;
    mappings.push_back({segment.fd(), segment.data(), segment.bytes(), {range.bytes}});
  }
}

void Endpoint::Impl::after_fork_parent() noexcept {
  arena.unlock_after_fork();
  mutex.unlock();
}

void Endpoint::Impl::after_fork_child() noexcept {
  arena.unlock_after_fork();
  mutex.unlock();
  // Kept open here, the socket would hide the parent's death from the peer.
  segments.abandon();
}

// ----------------------------------------------------------------------------------------- public
Endpoint::Endpoint(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Endpoint::~Endpoint() {
  if (impl_->inherited()) {
    // Its threads are the parent's: never destroyed here.
    new std::shared_ptr<Impl>(impl_);
    return;
  }
  close();
  impl_->join();
}

Result<std::pair<std::unique_ptr<Endpoint>, UniqueFd>> Endpoint::create(
    const EndpointOptions& options) {
  auto sockets = ControlSocket::pair();
  if (!sockets) return std::unexpected(sockets.error());
  auto end = create_on(sockets->first.release(), options);
  if (!end) return std::unexpected(end.error());
  return std::pair(std::move(*end), sockets->second.release());
}

Result<std::unique_ptr<Endpoint>> Endpoint::create_on(UniqueFd fd, const EndpointOptions& options) {
  if (auto sane = check(options, ErrorCode::InvalidArgument); !sane)
    return std::unexpected(sane.error());
  ControlSocket socket(std::move(fd));
  auto ring = Segment::create(0, channel_bytes(options.ring_capacity));
  if (!ring) return std::unexpected(ring.error());
  protocol::Welcome welcome;
  welcome.build_id = kBuildId;
  welcome.ring_capacity = options.ring_capacity;
  welcome.arena_initial_bytes = options.arena.initial_bytes;
  welcome.arena_growth_bytes = options.arena.growth_bytes;
  welcome.arena_max_bytes = options.arena.max_bytes;
  if (auto sent = socket.send(welcome, (*ring)->fd()); !sent) return std::unexpected(sent.error());
  auto impl = Impl::open(EndRole::First, options, std::move(socket), std::move(*ring));
  if (!impl) return std::unexpected(impl.error());
  return std::unique_ptr<Endpoint>(new Endpoint(std::move(*impl)));
}

Result<std::unique_ptr<Endpoint>> Endpoint::connect(UniqueFd fd, const Deadline& deadline,
                                                    std::shared_ptr<DeviceSide> devices) {
  ControlSocket socket(std::move(fd));
  auto message = socket.receive(deadline);
  if (!message) return std::unexpected(message.error());
  if (!*message) return failure(ErrorCode::DeadlineExceeded, "the first end did not greet in time");
  auto options = options_of(**message);
  if (!options) return std::unexpected(options.error());
  options->devices = std::move(devices);
  const std::size_t bytes = Segment::rounded(channel_bytes(options->ring_capacity));
  auto ring = Segment::map(0, std::move((*message)->fd), bytes);
  if (!ring) return std::unexpected(ring.error());
  auto impl = Impl::open(EndRole::Second, *options, std::move(socket), std::move(*ring));
  if (!impl) return std::unexpected(impl.error());
  return std::unique_ptr<Endpoint>(new Endpoint(std::move(*impl)));
}

// Each call holds the Impl: an end that is destroyed meanwhile ends the call, not the process.
Result<SharedBytes> Endpoint::allocate(std::size_t bytes) {
  const auto impl = impl_;
  return impl->allocate(bytes);
}

Result<SharedBytes> Endpoint::allocate_on(int ordinal, std::size_t bytes) {
  const auto impl = impl_;
  return impl->allocate_on(ordinal, bytes);
}

Result<void> Endpoint::send(std::uint64_t tag, std::vector<EndpointTensor>& tensors,
                            const Deadline& deadline) {
  const auto impl = impl_;
  return impl->send(tag, tensors, deadline);
}

Result<std::optional<EndpointMessage>> Endpoint::receive(const Deadline& deadline) {
  const auto impl = impl_;
  if (impl->inherited()) return std::unexpected(void_after_fork());
  return impl->receive(deadline);
}

bool Endpoint::knows(const SharedBytes& memory) const noexcept {
  return memory && memory.holder_->owner == impl_;
}

std::size_t Endpoint::trim(std::size_t keep_idle_bytes) {
  const auto impl = impl_;
  if (impl->inherited()) return 0;
  impl->channel.inbox().poll();  // what has come home counts as idle
  return impl->arena.trim(keep_idle_bytes);
}

ArenaStatistics Endpoint::statistics() const { return impl_->arena.statistics(); }

std::size_t Endpoint::device_bytes_in_use() const { return impl_->devices.bytes_in_use(); }

void Endpoint::close() {
  if (impl_->inherited()) return;
  impl_->close({ErrorCode::Closed, "this end was closed", {}});
}

}  // namespace tensorferry
