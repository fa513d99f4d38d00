#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/codec.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/endpoint.h>
#include <tensorferry/transport/fork_guard.h>
#include <tensorferry/transport/lease_book.h>
#include <tensorferry/transport/range_table.h>
#include <tensorferry/transport/version.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace tensorferry {
namespace {

constexpr std::chrono::seconds kSegmentPatience{30};

Error gone() {
  return {ErrorCode::Closed, "the other end was closed or its process has ended", {}};
}
Error void_after_fork() {
  return {ErrorCode::Closed,
          "this end belongs to the process that forked; open a pair of its own in the child",
          {}};
}

}  // namespace

// One hold on memory of either arena.
struct SharedBytes::Holder {
  std::shared_ptr<Endpoint::Impl> owner;
  std::shared_ptr<Segment> segment;  // of the peer's arena
  std::uint64_t lease = 0;           // on it
  BlockId block = 0;                 // of our own arena
  bool moved = false;                // sent on: no longer ours to give back
  std::uint64_t generation = fork_generation();
  ~Holder();
};

struct Endpoint::Impl : std::enable_shared_from_this<Endpoint::Impl> {
  Impl(bool creator_, const EndpointOptions& options, ControlSocket socket_)
      : creator(creator_),
        socket(std::move(socket_)),
        arena(options.arena, [this](std::size_t bytes) { return grow(bytes); }),
        lent(arena) {}

  const bool creator;
  ControlSocket socket;
  const std::uint64_t generation = fork_generation();
  std::atomic<SegmentId> next_segment{1};
  SegmentMap peer_segments;
  Arena arena;
  std::unique_ptr<Channel> channel;
  std::thread control;
  std::thread background;

  std::mutex mutex;  // guards what follows
  LeaseBook lent;    // of our arena, to the peer
  RangeTable out;    // of the peer's arena, held here
  std::deque<EndpointMessage> received;
  std::uint64_t next_request = 1;
  std::unordered_map<std::uint64_t, Result<std::shared_ptr<Segment>>> granted;
  std::condition_variable segments_changed;
  Completion arrived;  // the receiving thread's
  bool peer_gone = false;

  // ------------------------------------------------------------------------------------- opening
  Result<void> start(std::shared_ptr<Segment> ring, std::size_t capacity) {
    Channel::Options options;
    options.ring_capacity = capacity;
    options.spill_arena = &arena;
    options.resolve = [this](const protocol::MemoryRef& memory) { return resolve(memory); };
    options.issue_lease = [this](BlockId id) {
      Block block = arena.lookup(id).value();
      std::scoped_lock lock(mutex);
      return lent.lend_held({id, block.segment, block.offset, block.bytes, block.data});
    };
    channel = std::make_unique<Channel>(
        std::move(ring), creator ? Side::Server : Side::Stub, std::move(options),
        [this](const Received& message) { return on_message(message); });
    channel->set_release_notify([this] { (void)channel->flush_releases(); });
    control = std::thread([this] { serve_control(); });
    background = std::thread([this] { channel->inbox().serve_background(); });
    return {};
  }

  void close(Error why) {
    if (channel) channel->close(std::move(why));
    std::scoped_lock lock(mutex);
    peer_gone = true;
    segments_changed.notify_all();
    arrived.signal();
  }

  // The peer's holds are void; what is held here of the peer's stays mapped by its holders, and
  // what it sent before it ended is still to be received.
  void bury_peer() {
    {
      std::scoped_lock lock(mutex);
      peer_gone = true;
      segments_changed.notify_all();
      arrived.signal();
    }
    channel->inbox().interrupt();
    // What it gave back last is still ours to find: its holds are void only once all that it sent
    // is read.
    while (!channel->inbox().poll() && !channel->inbox().stopped()) std::this_thread::yield();
    std::scoped_lock lock(mutex);
    lent.clear();
  }

  // ------------------------------------------------------------------------------------ segments
  Result<std::shared_ptr<Segment>> grow(std::size_t bytes) {
    if (!creator) return ask_for_segment(bytes);
    auto segment = Segment::create(next_segment.fetch_add(1), bytes);
    if (!segment) return segment;
    protocol::Segment message{(*segment)->id(), protocol::SegmentRole::Host, (*segment)->bytes(),
                              0};
    if (auto sent = socket.send(message, (*segment)->fd(), Clock::now() + kSegmentPatience);
        !sent) {
      return std::unexpected(sent.error());
    }
    return segment;
  }

  Result<std::shared_ptr<Segment>> ask_for_segment(std::size_t bytes) {
    std::uint64_t number;
    {
      std::scoped_lock lock(mutex);
      number = next_request++;
    }
    auto deadline = Clock::now() + kSegmentPatience;
    if (auto sent = socket.send(protocol::SegmentRequest{number, bytes}, -1, deadline); !sent) {
      return std::unexpected(sent.error());
    }
    std::unique_lock lock(mutex);
    segments_changed.wait_until(lock, deadline,
                                [&] { return granted.contains(number) || peer_gone; });
    auto it = granted.find(number);
    if (it == granted.end()) return std::unexpected(gone());
    auto result = std::move(it->second);
    granted.erase(it);
    return result;
  }

  // A message may name a segment whose descriptor is still on its way.
  Result<SegmentMap::Range> resolve(const protocol::MemoryRef& memory) {
    if (!peer_segments.find(memory.place)) {
      std::unique_lock lock(mutex);
      segments_changed.wait_until(lock, Clock::now() + kSegmentPatience, [&] {
        return peer_segments.find(memory.place) != nullptr || peer_gone;
      });
    }
    return peer_segments.resolve(memory.place, memory.offset, memory.bytes);
  }

  void serve_control() {
    Scratch scratch;
    while (true) {
      auto message = socket.receive({});
      if (!message || !*message) break;
      scratch.reset();
      if (auto handled = on_control(std::move(**message), scratch); !handled) {
        channel->close(handled.error());
        break;
      }
    }
    bury_peer();
  }

  Result<void> on_control(ControlMessage message, Scratch& scratch) {
    switch (message.kind) {
      case protocol::ControlKind::SegmentRequest: {
        auto request = decode_private<protocol::SegmentRequest>(message.body, scratch);
        if (!request) return std::unexpected(request.error());
        return grant(*request);
      }
      case protocol::ControlKind::Segment: {
        auto segment = decode_private<protocol::Segment>(message.body, scratch);
        if (!segment) return std::unexpected(segment.error());
        auto mapped = Segment::map(segment->segment, std::move(message.fd), segment->bytes);
        if (!mapped) return std::unexpected(mapped.error());
        if (segment->reply_to == 0) peer_segments.insert(*mapped);
        std::scoped_lock lock(mutex);
        if (segment->reply_to != 0) granted.emplace(segment->reply_to, std::move(*mapped));
        segments_changed.notify_all();
        return {};
      }
      case protocol::ControlKind::SegmentDenied: {
        auto denied = decode_private<protocol::SegmentDenied>(message.body, scratch);
        if (!denied) return std::unexpected(denied.error());
        std::scoped_lock lock(mutex);
        granted.emplace(denied->reply_to, failure(denied->code, std::string(denied->error)));
        segments_changed.notify_all();
        return {};
      }
      default:
        return failure(ErrorCode::Protocol, "an unexpected control message came");
    }
  }

  Result<void> grant(const protocol::SegmentRequest& request) {
    if (!creator)
      return failure(ErrorCode::Protocol, "only the end that connected may ask for segments");
    auto deadline = Clock::now() + kSegmentPatience;
    auto segment = request.bytes <= arena.options().max_bytes
                       ? Segment::create(next_segment.fetch_add(1), request.bytes)
                       : failure(ErrorCode::OutOfSharedMemory,
                                 "a segment of " + std::to_string(request.bytes) +
                                     " bytes is above the arena's maximum");
    if (!segment) {
      return socket.send(
          protocol::SegmentDenied{request.number, segment.error().code, segment.error().message},
          -1, deadline);
    }
    peer_segments.insert(*segment);
    return socket.send(protocol::Segment{(*segment)->id(), protocol::SegmentRole::Stub,
                                         (*segment)->bytes(), request.number},
                       (*segment)->fd(), deadline);
  }

  // ----------------------------------------------------------------------------------- receiving
  Result<void> on_message(const Received& message) {
    std::span<const protocol::LeaseRelease> releases;
    std::optional<EndpointMessage> arrival;
    if (message.kind == protocol::RecordKind::Release) {
      auto release = decode_private<protocol::Release>(message.body, message.scratch);
      if (!release) return std::unexpected(release.error());
      releases = release->releases;
    } else if (message.kind == protocol::RecordKind::User) {
      auto user = decode_private<protocol::UserMessage>(message.body, message.scratch);
      if (!user) return std::unexpected(user.error());
      auto taken = take(*user);
      if (!taken) return std::unexpected(taken.error());
      arrival = std::move(*taken);
      releases = user->releases;
    } else {
      return failure(ErrorCode::Protocol, "an unexpected record came");
    }
    std::scoped_lock lock(mutex);
    for (const auto& release : releases) {
      if (!lent.release(release.lease) && !peer_gone) {
        return failure(ErrorCode::Protocol, "lease " + std::to_string(release.lease) +
                                                " is given back and was not lent");
      }
    }
    if (arrival) {
      received.push_back(std::move(*arrival));
      arrived.signal();
    }
    return {};
  }

  Result<EndpointMessage> take(const protocol::UserMessage& user) {
    EndpointMessage message;
    message.tag = user.tag;
    for (const protocol::TensorRecord& record : user.tensors) {
      EndpointTensor& tensor = message.tensors.emplace_back();
      tensor.name = record.name;
      tensor.dtype = record.dtype;
      tensor.shape.assign(record.shape.begin(), record.shape.end());
      if (!record.strides.empty())
        return failure(ErrorCode::Protocol, "a tensor that is not in C order came");
      if (record.memory.kind == protocol::MemoryKind::Inline) {
        tensor.small.resize(record.inline_bytes.size());
        copy_payload(tensor.small.data(), record.inline_bytes.data(), record.inline_bytes.size(),
                     CopyKind::Inline);
        continue;
      }
      auto shared = take_shared(user, record.memory);
      if (!shared) return std::unexpected(shared.error());
      tensor.shared = std::move(*shared);
    }
    return message;
  }

  Result<SharedBytes> take_shared(const protocol::UserMessage& user,
                                  const protocol::MemoryRef& memory) {
    SharedBytes shared;
    auto holder = std::make_shared<SharedBytes::Holder>();
    {
      // Our own block that comes back: the peer's hold ends with this message.
      std::scoped_lock lock(mutex);
      auto range = lent.find(memory.lease);
      if (range && range->contains(memory.place, memory.offset, memory.bytes)) {
        if (std::ranges::find(user.releases, memory.lease, &protocol::LeaseRelease::lease) ==
            user.releases.end()) {
          return failure(ErrorCode::Protocol, "a range comes back that the other end keeps");
        }
        arena.add_holder(range->block);
        holder->owner = shared_from_this();
        holder->block = range->block;
        shared.bytes_ = {range->data + (memory.offset - range->offset), memory.bytes};
        shared.holder_ = std::move(holder);
        return shared;
      }
    }
    auto range = resolve(memory);
    if (!range) return std::unexpected(range.error());
    {
      std::scoped_lock lock(mutex);
      if (auto noted = out.insert(memory.lease, memory.place, memory.offset, memory.bytes);
          !noted) {
        return std::unexpected(noted.error());
      }
    }
    holder->owner = shared_from_this();
    holder->segment = range->segment;
    holder->lease = memory.lease;
    shared.bytes_ = range->bytes;
    shared.holder_ = std::move(holder);
    return shared;
  }

  // ------------------------------------------------------------------------------------- sending
  // Where the tensor's bytes lie once they may be sent: moved, or copied into our arena.
  Result<protocol::MemoryRef> place(EndpointTensor& tensor,
                                    std::vector<protocol::LeaseRelease>& releases) {
    auto* holder = tensor.shared ? tensor.shared.holder_.get() : nullptr;
    std::span<const std::byte> bytes = tensor.bytes();
    protocol::MemoryRef memory{protocol::MemoryKind::Segment, 0, 0, bytes.size(), 0};
    if (holder && holder->owner.get() == this && tensor.shared.sole() && holder->lease != 0) {
      // The peer's own range goes home.
      std::scoped_lock lock(mutex);
      memory.place = holder->segment->id();
      memory.offset = static_cast<std::uint64_t>(bytes.data() - holder->segment->data());
      memory.lease = holder->lease;
      out.erase(holder->lease);
      releases.push_back({holder->lease, {}});
      holder->moved = true;
      return memory;
    }
    Block block;
    if (holder && holder->owner.get() == this && tensor.shared.sole() && holder->block != 0) {
      block = arena.lookup(holder->block).value();
      holder->moved = true;  // its hold becomes the lease's
    } else {
      auto fresh = arena.allocate(bytes.size());
      if (!fresh) return std::unexpected(fresh.error());
      block = *fresh;
      copy_payload(block.data, bytes.data(), bytes.size());
      bytes = {block.data, bytes.size()};
    }
    auto* data = const_cast<std::byte*>(bytes.data());
    memory.place = block.segment;
    memory.offset = block.offset + static_cast<std::uint64_t>(data - block.data);
    std::scoped_lock lock(mutex);
    memory.lease = lent.lend_held({block.id, block.segment, memory.offset, bytes.size(), data});
    return memory;
  }

  Result<void> send(std::uint64_t tag, std::vector<EndpointTensor> tensors,
                    const Deadline& deadline) {
    if (channel->closed()) return std::unexpected(channel->inbox().error());
    {
      std::scoped_lock lock(mutex);
      if (peer_gone) return std::unexpected(gone());
    }
    for (const EndpointTensor& tensor : tensors) {
      auto count = element_count(tensor.shape);
      if (!count)
        return failure(ErrorCode::InvalidArgument,
                       "tensor '" + tensor.name + "': " + count.error().message);
      std::size_t expected = static_cast<std::size_t>(*count) * element_bytes(tensor.dtype);
      if (!tensor.dtype.is_bytes() && expected != tensor.bytes().size()) {
        return failure(ErrorCode::InvalidArgument,
                       "tensor '" + tensor.name + "' has " + std::to_string(tensor.bytes().size()) +
                           " bytes, its shape takes " + std::to_string(expected));
      }
    }
    std::vector<protocol::LeaseRelease> releases;
    channel->take_releases(releases);
    std::vector<protocol::TensorRecord> records;
    for (EndpointTensor& tensor : tensors) {
      protocol::TensorRecord& record = records.emplace_back();
      record.name = tensor.name;
      record.dtype = tensor.dtype;
      record.shape = tensor.shape;
      record.memory.bytes = tensor.bytes().size();
      if (record.memory.bytes < protocol::kInlineBelowBytes) {
        record.inline_bytes = tensor.bytes();
        count_copy(record.memory.bytes, CopyKind::Inline);
        continue;
      }
      auto memory = place(tensor, releases);
      if (!memory) return std::unexpected(memory.error());
      record.memory = *memory;
    }
    return channel->send(protocol::UserMessage{tag, records, releases}, Urgency::Lazy, deadline);
  }
};

SharedBytes::Holder::~Holder() {
  if (moved || !owner || fork_generation() != generation) return;
  if (block != 0) {
    owner->arena.release(block);
    return;
  }
  {
    std::scoped_lock lock(owner->mutex);
    if (!owner->out.erase(lease) || owner->peer_gone) return;
  }
  owner->channel->release_later(lease);
}

Endpoint::Endpoint(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Endpoint::~Endpoint() {
  if (fork_generation() != impl_->generation) {
    new std::shared_ptr<Impl>(
        impl_);  // its threads and descriptors are the parent's: never destroyed here
    return;
  }
  close();
  if (impl_->control.joinable()) impl_->control.join();
  if (impl_->background.joinable()) impl_->background.join();
  std::deque<EndpointMessage> unread;  // they hold the Impl, and let go outside its lock
  std::scoped_lock lock(impl_->mutex);
  unread.swap(impl_->received);
}

std::shared_ptr<const void> SharedBytes::mapping() const {
  if (!holder_) return nullptr;
  if (holder_->segment) return holder_->segment;
  return holder_->owner;
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
  auto impl = std::make_shared<Impl>(true, options, std::move(socket));
  if (auto started = impl->start(std::move(*ring), options.ring_capacity); !started) {
    return std::unexpected(started.error());
  }
  return std::unique_ptr<Endpoint>(new Endpoint(std::move(impl)));
}

Result<std::unique_ptr<Endpoint>> Endpoint::connect(UniqueFd fd, const Deadline& deadline) {
  ControlSocket socket(std::move(fd));
  auto message = socket.receive(deadline);
  if (!message) return std::unexpected(message.error());
  if (!*message) return failure(ErrorCode::DeadlineExceeded, "the first end did not greet in time");
  Scratch scratch;
  auto welcome = decode<protocol::Welcome>((*message)->body, scratch);
  if ((*message)->kind != protocol::ControlKind::Welcome || !welcome) {
    return failure(ErrorCode::Protocol, "the first end did not begin with its greeting");
  }
  EndpointOptions options;
  options.ring_capacity = welcome->ring_capacity;
  options.arena = {welcome->arena_initial_bytes, welcome->arena_growth_bytes,
                   welcome->arena_max_bytes};
  const std::size_t bytes = (channel_bytes(options.ring_capacity) + 4095) / 4096 * 4096;
  auto ring = Segment::map(0, std::move((*message)->fd), bytes);
  if (!ring) return std::unexpected(ring.error());
  auto impl = std::make_shared<Impl>(false, options, std::move(socket));
  if (auto started = impl->start(std::move(*ring), options.ring_capacity); !started) {
    return std::unexpected(started.error());
  }
  return std::unique_ptr<Endpoint>(new Endpoint(std::move(impl)));
}

Result<SharedBytes> Endpoint::allocate(std::size_t bytes) {
  if (fork_generation() != impl_->generation) return std::unexpected(void_after_fork());
  impl_->channel->inbox().poll();  // what has come home is used first
  auto block = impl_->arena.allocate(bytes);
  if (!block) return std::unexpected(block.error());
  SharedBytes shared;
  shared.holder_ = std::make_shared<SharedBytes::Holder>();
  shared.holder_->owner = impl_;
  shared.holder_->block = block->id;
  shared.bytes_ = {block->data, bytes};
  return shared;
}

Result<void> Endpoint::send(std::uint64_t tag, std::vector<EndpointTensor> tensors,
                            const Deadline& deadline) {
  if (fork_generation() != impl_->generation) return std::unexpected(void_after_fork());
  return impl_->send(tag, std::move(tensors), deadline);
}

Result<std::optional<EndpointMessage>> Endpoint::receive(const Deadline& deadline) {
  if (fork_generation() != impl_->generation) return std::unexpected(void_after_fork());
  bool last_look = false;
  while (true) {
    bool ended;
    {
      std::scoped_lock lock(impl_->mutex);
      if (!impl_->received.empty()) {
        EndpointMessage message = std::move(impl_->received.front());
        impl_->received.pop_front();
        return message;
      }
      if (impl_->channel->inbox().stopped())
        return std::unexpected(impl_->channel->inbox().error());
      if (last_look) return std::unexpected(gone());
      ended = impl_->peer_gone;
      if (!ended) impl_->arrived.reset();
    }
    if (ended) {
      // It may have sent something before it ended. Whoever leads just now reads it too.
      last_look = impl_->channel->inbox().poll();
      if (!last_look) std::this_thread::yield();
      continue;
    }
    // Idle from here: what was let go of goes home now.
    if (auto flushed = impl_->channel->flush_releases(); !flushed)
      return std::unexpected(flushed.error());
    if (impl_->channel->inbox().wait(impl_->arrived, deadline) == WaitStatus::TimedOut)
      return std::nullopt;
  }
}

ArenaStatistics Endpoint::statistics() const { return impl_->arena.statistics(); }

void Endpoint::close() {
  if (fork_generation() != impl_->generation) return;
  impl_->close({ErrorCode::Closed, "this end was closed", {}});
  impl_->socket.shutdown();
}

}  // namespace tensorferry
