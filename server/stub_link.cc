// Opening, executing and closing; how a batch is written is in stub_link_requests.cc, what comes
// back in stub_link_answers.cc.
#include "stub_link.h"

#include <tensorferry/transport/trace.h>
#include <tensorferry/transport/version.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "stub_lease.h"

namespace tensorferry::server {
namespace {

// How long a message to a stub may find no room before the stub counts as hung. Batches in flight
// are bounded so that the ring has room for them; only a stub that lies can fill it.
constexpr std::chrono::seconds kSendPatience{10};

// How long closing waits for another thread to read what a stub has left in its ring: it is reading
// just then, so that this is for a process that gets no CPU.
constexpr std::chrono::milliseconds kLastAnswers{100};

Deadline patience() { return Clock::now() + kSendPatience; }

// Segments of one stub's arena. Arenas grow geometrically, so that an honest stub stays far below;
// each costs the server a descriptor.
constexpr std::size_t kMaxSegments = 512;

std::uint64_t next_link_number() {
  static std::atomic<std::uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

std::uint64_t input_bytes(const Batch& batch) {
  std::uint64_t bytes = 0;
  for (const auto& execution : batch)
    for (const Tensor& input : execution->request().inputs) bytes += input.data.size();
  return bytes;
}

}  // namespace

StubLink::StubLink(LinkOptions options, std::shared_ptr<ControlSocket> socket,
                   std::shared_ptr<SegmentAuthority> segments, ModelMemory memory,
                   InstanceEvents& events, std::shared_ptr<Logger> logger)
    : options_(std::move(options)),
      socket_(std::move(socket)),
      segments_(std::move(segments)),
      host_(std::move(memory.host)),
      gpus_(std::move(memory.gpus)),
      link_number_(next_link_number()),
      events_(events),
      logger_(std::move(logger)),
      woken_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      lent_(host_->arena()) {}

Result<std::shared_ptr<StubLink>> StubLink::open(LinkOptions options,
                                                 std::shared_ptr<ControlSocket> socket,
                                                 std::shared_ptr<SegmentAuthority> segments,
                                                 ModelMemory memory, InstanceEvents& events,
                                                 std::shared_ptr<Logger> logger) {
  std::shared_ptr<StubLink> link(new StubLink(std::move(options), std::move(socket),
                                              std::move(segments), std::move(memory), events,
                                              std::move(logger)));
  if (auto started = link->start(); !started) return std::unexpected(started.error());
  return link;
}

Result<void> StubLink::start() {
  if (!woken_) return system_failure("eventfd for a stub", errno);
  auto ring = segments_->create(channel_bytes(options_.ring_capacity));
  if (!ring) return std::unexpected(ring.error());
  Channel::Options channel;
  channel.ring_capacity = options_.ring_capacity;
  channel.spill_arena = &host_->arena();
  channel.resolve = [this](const protocol::MemoryRef& memory) {
    return stub_segments_.resolve(memory.place, memory.offset, memory.bytes);
  };
  channel.issue_lease = [this](BlockId id) {
    Block block = host_->arena().lookup(id).value();
    std::scoped_lock lock(mutex_);
    return lent_.lend_held({id, block.segment, block.offset, block.bytes, block.data});
  };
  channel_ =
      std::make_unique<Channel>(*ring, Side::Server, std::move(channel),
                                [this](const Received& message) { return on_message(message); });

  protocol::Welcome welcome;
  welcome.build_id = kBuildId;
  welcome.instance = options_.instance;
  welcome.ring_capacity = options_.ring_capacity;
  welcome.arena_initial_bytes = options_.arena.initial_bytes;
  welcome.arena_growth_bytes = options_.arena.growth_bytes;
  welcome.arena_max_bytes = options_.arena.max_bytes;
  if (auto sent = socket_->send(welcome, (*ring)->fd(), patience()); !sent) return sent;
  fork_registration_ = register_fork_participant(*this);
  host_->subscribe(*this);
  try {
    background_ = std::thread([this] {
      channel_->inbox().serve_background();
      wake_supervisor();
    });
  } catch (const std::system_error& error) {
    return failure(ErrorCode::System, std::string("a thread for a stub: ") + error.what());
  }
  return {};
}

StubLink::~StubLink() {
  host_->unsubscribe(*this);
  // One that was opened was closed by its supervisor before, so that no thread but ours is inside.
  if (channel_) channel_->close({ErrorCode::Closed, "the stub's link was destroyed", {}});
  if (background_.joinable()) background_.join();
}

void StubLink::wake_supervisor() const noexcept {
  std::uint64_t one = 1;
  (void)!::write(woken_.get(), &one, sizeof one);
}

void StubLink::collect(std::vector<Mapping>& mappings) {
  std::map<SegmentId, std::vector<std::span<std::byte>>> live;
  out_.for_each([&](SegmentId id, std::uint64_t offset, std::uint64_t bytes) {
    if (auto segment = stub_segments_.find(id))
      live[id].emplace_back(segment->data() + offset, bytes);
  });
  for (auto& [id, ranges] : live) {
    auto segment = stub_segments_.find(id);
    mappings.push_back({segment->fd(), segment->data(), segment->bytes(), std::move(ranges)});
  }
}

void StubLink::on_segment(const HostArena& arena, const Segment& segment) {
  Result<void> sent;
  if (auto lane = find_lane(arena.device())) {
    if (!shares_device_memory(lane->rung())) return;
    sent = lane->announce(*socket_, segment, protocol::SegmentRole::Host, 0, patience());
  } else {
    protocol::Segment message{segment.id(), protocol::SegmentRole::Host, segment.bytes(), 0};
    sent = socket_->send(message, segment.fd(), patience());
  }
  if (!sent) channel_->close(sent.error());
}

void StubLink::on_segment_dropped(SegmentId id) {
  if (auto sent = socket_->send(protocol::SegmentDropped{id}, -1, patience()); !sent)
    channel_->close(sent.error());
}

StubSegments::Use StubLink::arena_use(const Device& device) const {
  if (device.kind != DeviceKind::Cuda) return stub_segments_.use();
  auto lane = find_lane(device);
  return lane ? lane->segments().use() : StubSegments::Use{};
}

Result<std::shared_ptr<Segment>> StubLink::make_stub_segment(
    const protocol::SegmentRequest& request) {
  const auto use = arena_use(request.device);
  const bool on_gpu = request.device.kind == DeviceKind::Cuda;
  const std::size_t max = on_gpu ? gpus_->options().max_bytes : options_.arena.max_bytes;
  if (use.segments >= kMaxSegments) {
    return failure(ErrorCode::OutOfSharedMemory,
                   "the arena of instance '" + options_.instance + "' has " +
                       std::to_string(use.segments) +
                       " segments already, which is the limit; raise arena_growth_bytes");
  }
  if (request.bytes > max || use.bytes > max - request.bytes) {
    return failure(
        ErrorCode::OutOfSharedMemory,
        "the arena of instance '" + options_.instance + "' holds " + std::to_string(use.bytes) +
            " bytes in segments and may hold " + std::to_string(max) + ": " +
            std::to_string(request.bytes) +
            " more don't fit; raise arena_max_bytes, or keep fewer or smaller tensors at a time");
  }
  if (!on_gpu) return segments_->create(request.bytes);
  auto lane = find_lane(request.device);
  if (!lane) return failure(ErrorCode::InvalidArgument, "that device was not offered");
  if (!shares_device_memory(lane->rung()))
    return failure(ErrorCode::InvalidArgument, "no memory of that device is shared");
  return make_device_segment(segments_->issue(), lane->gpu(), request.bytes,
                             lane->sharing().mode());
}

void StubLink::on_segment_request(const protocol::SegmentRequest& request) {
  auto segment = make_stub_segment(request);
  Result<void> sent;
  if (!segment) {
    sent = socket_->send(
        protocol::SegmentDenied{request.number, segment.error().code, segment.error().message}, -1,
        patience());
  } else if (auto lane = find_lane(request.device)) {
    lane->segments().insert(*segment);
    sent = lane->announce(*socket_, **segment, protocol::SegmentRole::Stub, request.number,
                          patience());
  } else {
    stub_segments_.insert(*segment);
    protocol::Segment message{(*segment)->id(), protocol::SegmentRole::Stub, (*segment)->bytes(),
                              request.number};
    sent = socket_->send(message, (*segment)->fd(), patience());
  }
  if (!sent) channel_->close(sent.error());
}

StubSegments* StubLink::segments_with(SegmentId id) {
  if (stub_segments_.find(id)) return &stub_segments_;
  std::scoped_lock lock(mutex_);
  for (const auto& [ordinal, lane] : lanes_) {
    if (lane->segments().find(id)) return &lane->segments();
  }
  return nullptr;
}

Result<void> StubLink::on_stub_dropped_segment(SegmentId id) {
  StubSegments* segments = segments_with(id);
  if (!segments) {
    return std::unexpected(
        violation("it drops segment " + std::to_string(id) + ", which it doesn't have"));
  }
  std::scoped_lock lock(mutex_);
  bool held = false;
  for (const RangeTable* out : {&out_, &device_out_})
    out->for_each([&](SegmentId in, std::uint64_t, std::uint64_t) { held |= in == id; });
  if (held) {
    return std::unexpected(
        violation("it drops segment " + std::to_string(id) + ", of which answers are held"));
  }
  segments->erase(*segments->find(id));
  return {};
}

std::size_t StubLink::take_slot() {
  if (free_slots_.empty()) {
    in_flight_.emplace_back();
    return in_flight_.size() - 1;
  }
  std::size_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

// To the stub a request's number is its own, which never repeats, and its place in the table, so
// that an answer is found at once and a stale or invented number is noticed. A batch goes by the
// number of its first request, which traces show on both sides.
Result<void> StubLink::execute(Batch& batch) {
  host_->use();
  const std::uint64_t number = batch.front()->number();
  Span span(Phase::Send, number);
  if (span) span.set_bytes(input_bytes(batch));
  std::scoped_lock sending(send_mutex_);
  const auto now = Clock::now();
  placed_.clear();
  const ReadyEvents ready = record_ready(batch);
  if (ready.failure) return std::unexpected(in_context(*ready.failure));
  {
    std::scoped_lock lock(mutex_);
    if (closing_ || channel_->closed()) {
      return failure(ErrorCode::Unavailable,
                     "Stub process '" + options_.instance + "' is not healthy.");
    }
    RunningBatch running = new_batch();
    running.number = number;
    running.since = now;
    for (auto& execution : batch) {
      std::size_t slot = take_slot();
      in_flight_[slot] = {(execution->number() << 20) | slot, number, execution};
      running.slots.push_back(slot);
    }
    running_.push_back(std::move(running));
    describe(batch, running_.back().slots, ready);
  }
  placed_.clear();  // lent now
  auto sent = send_batch(number, ready, batch, now + kSendPatience);
  if (sent) return {};
  channel_->keep_releases(given_back_now_);
  const bool unsendable = sent.error().code == ErrorCode::OutOfSharedMemory ||
                          sent.error().code == ErrorCode::InvalidArgument;
  // A ring that stays full, or whose indices are impossible: only a stub that lies does that.
  if (!unsendable) channel_->close(violation(sent.error().message));
  std::scoped_lock lock(mutex_);
  for (const std::uint64_t lease : lent_now_) take_back_loan(lease);
  auto it = std::ranges::find(running_, number, &RunningBatch::number);
  if (it == running_.end()) return {};  // close() has seen to it already
  for (std::size_t slot : it->slots) {
    if (is_inside(*it, slot)) free_slot(slot);
  }
  forget_batch(it);
  if (!unsendable) sent.error().code = ErrorCode::Unavailable;
  return std::unexpected(in_context(sent.error()));
}

// A slot may have been answered and taken by a later batch.
bool StubLink::is_inside(const RunningBatch& batch, std::size_t slot) const {
  return in_flight_[slot].execution && in_flight_[slot].batch == batch.number;
}

StubLink::RunningBatch StubLink::new_batch() {
  RunningBatch batch;
  if (spare_slots_.empty()) return batch;
  batch.slots = std::move(spare_slots_.back());
  spare_slots_.pop_back();
  return batch;
}

void StubLink::forget_batch(std::vector<RunningBatch>::iterator batch) {
  batch->slots.clear();
  spare_slots_.push_back(std::move(batch->slots));
  running_.erase(batch);
}

void StubLink::free_slot(std::size_t slot) {
  in_flight_[slot] = {};
  free_slots_.push_back(slot);
}

void StubLink::cancel(const Execution& execution) {
  std::uint64_t number = 0;
  {
    std::scoped_lock lock(mutex_);
    for (const InFlight& entry : in_flight_) {
      if (entry.execution.get() == &execution) number = entry.number;
    }
  }
  // Nobody waits for it any more, so a failure to say so changes nothing.
  if (number != 0) (void)channel_->send(protocol::Cancel{number}, Urgency::Urgent, Clock::now());
}

void StubLink::fail_requests(const Error& why) {
  std::vector<std::shared_ptr<Execution>> inside;
  {
    std::scoped_lock lock(mutex_);
    for (const InFlight& entry : in_flight_) {
      if (entry.execution) inside.push_back(entry.execution);
    }
  }
  for (const auto& execution : inside) {
    Error error = in_context(why, execution->request().id);
    log_failure(error);
    execution->respond(&error, false, true);
  }
  channel_->inbox().interrupt();
}

void StubLink::close(const Error& why) {
  {
    std::scoped_lock lock(mutex_);
    if (std::exchange(closing_, true)) return;
  }
  // An answer that a stub left in its ring before it died arrives, whoever reads it.
  channel_->inbox().settle(Clock::now() + kLastAnswers);
  std::vector<std::shared_ptr<Execution>> failed;
  Batch unbegun;
  {
    std::scoped_lock lock(mutex_);
    closed_ = true;
    take_all(failed, unbegun);
  }
  close_lanes(why);
  {
    std::scoped_lock lock(mutex_);
    lent_.clear();
    reads_done_.clear();
  }
  channel_->close(why);
  // Here and not where the last one lets go of the link, which may be that thread.
  if (background_.joinable()) background_.join();
  for (const auto& execution : failed) {
    Error error = in_context(why, execution->request().id);
    log_failure(error);
    execution->respond(&error, false, true);
  }
  if (!unbegun.empty()) events_.give_back(std::move(unbegun));
}

// The batch that it was at, and those that only waited in its ring, each in order.
void StubLink::take_all(std::vector<std::shared_ptr<Execution>>& begun, Batch& unbegun) {
  for (const RunningBatch& batch : running_) {
    auto& to = &batch == &running_.front() ? begun : unbegun;
    for (std::size_t slot : batch.slots) {
      if (is_inside(batch, slot)) to.push_back(std::move(in_flight_[slot].execution));
    }
  }
  in_flight_.clear();
  free_slots_.clear();
  running_.clear();
}

bool StubLink::closed() const {
  std::scoped_lock lock(mutex_);
  return closed_;
}

std::size_t StubLink::batches_inside() const {
  std::scoped_lock lock(mutex_);
  return running_.size();
}

std::optional<std::chrono::steady_clock::time_point> StubLink::running_since() const {
  std::scoped_lock lock(mutex_);
  if (running_.empty()) return std::nullopt;
  return running_.front().since;
}

std::size_t StubLink::answers_out_bytes() const {
  std::scoped_lock lock(mutex_);
  return out_.bytes();
}

std::size_t StubLink::stub_arena_bytes() const { return stub_segments_.use().bytes; }

std::size_t StubLink::stub_arena_peak_bytes() const { return stub_segments_.use().peak_bytes; }

void StubLink::trim() {
  (void)channel_->inbox().poll();
  // The stub reads these before it trims: what its ring holds comes first (stub/stub_link.cc).
  (void)channel_->flush_releases(Urgency::Urgent);
  (void)socket_->send(protocol::Trim{}, -1, Clock::now());
}

Error StubLink::in_context(Error error, const std::string& request_id) const {
  error.context = {options_.model, options_.instance, request_id};
  return error;
}

}  // namespace tensorferry::server
