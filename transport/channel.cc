#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/copy.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace tensorferry {
namespace {

std::byte* outgoing(const Segment& ring, Side side, std::size_t capacity) {
  return ring.data() + (side == Side::Server ? 0 : ring_bytes(capacity));
}

std::byte* incoming(const Segment& ring, Side side, std::size_t capacity) {
  return outgoing(ring, side == Side::Server ? Side::Stub : Side::Server, capacity);
}

// How long a sender sleeps at most before it looks whether the channel was closed.
constexpr std::chrono::milliseconds kRoomTick{100};

}  // namespace

struct Channel::Impl {
  Impl(std::shared_ptr<Segment> ring_, Side side, Options options_, Handler handler_)
      : ring(std::move(ring_)),
        options(std::move(options_)),
        handler(std::move(handler_)),
        writer(outgoing(*ring, side, options.ring_capacity), options.ring_capacity),
        inbox(incoming(*ring, side, options.ring_capacity), options.ring_capacity,
              [this](const RingRecord& record) { return on_record(record); }) {}

  std::shared_ptr<Segment> ring;
  Options options;
  Handler handler;

  std::mutex send_mutex;
  RingWriter writer;  // under send_mutex

  struct DeviceRelease {
    std::uint64_t lease;
    std::vector<protocol::EventSlot> after;
  };
  std::mutex release_mutex;
  std::vector<std::uint64_t> releases;
  std::vector<DeviceRelease> device_releases;
  std::vector<protocol::EventSlot> seen;
  std::function<void()> notify;

  std::atomic<bool> closed{false};
  std::mutex why_mutex;
  std::optional<Error> why;  // of close_sending(), under why_mutex

  // The reading thread's: a message's private copy.
  Scratch scratch;
  Inbox inbox;  // last: its handler uses the others

  Result<void> on_record(const RingRecord& record) {
    scratch.reset();
    std::span<const std::byte> body = record.body;
    std::optional<std::uint64_t> lease;
    SegmentMap::Range spilled;
    if (record.spilled) {
      auto spill = decode<protocol::Spill>(record.body, scratch);
      if (!spill) return std::unexpected(spill.error());
      if (!options.resolve || spill->body.kind != protocol::MemoryKind::Segment ||
          spill->body.bytes > protocol::kMaxBodyBytes) {
        return failure(ErrorCode::Protocol, "a spilled body lies where none may");
      }
      auto range = options.resolve(spill->body);
      if (!range) return std::unexpected(range.error());
      spilled = std::move(*range);
      body = spilled.bytes;
      lease = spill->body.lease;
    }
    // The one copy out of shared memory; whatever is checked from here on cannot change any more.
    std::byte* copy = scratch.take(body.size());
    if (!body.empty()) std::memcpy(copy, body.data(), body.size());
    Result<void> handled = handler({record.kind, {copy, body.size()}, scratch});
    if (lease) release(*lease, {});
    return handled;
  }

  void release(std::uint64_t lease, std::span<const protocol::EventSlot> after) {
    bool first;
    {
      std::scoped_lock lock(release_mutex);
      first = releases.empty() && device_releases.empty();
      if (after.empty()) {
        releases.push_back(lease);
      } else {
        device_releases.push_back({lease, {after.begin(), after.end()}});
      }
    }
    if (first && notify) notify();
  }

  // Under release_mutex: those of device memory, as far as a message takes them.
  void take_device_releases(GivenBack& out, std::size_t most) {
    std::size_t count = 0, events = 0;
    for (; count < std::min(most, device_releases.size()); ++count)
      events += device_releases[count].after.size();
    out.after.reserve(events);  // the spans below must stay
    for (std::size_t i = 0; i < count; ++i) {
      const DeviceRelease& release = device_releases[i];
      const std::size_t first = out.after.size();
      out.after.insert(out.after.end(), release.after.begin(), release.after.end());
      out.releases.push_back({release.lease, std::span(out.after).subspan(first)});
    }
    device_releases.erase(device_releases.begin(),
                          device_releases.begin() + static_cast<std::ptrdiff_t>(count));
  }

  Error why_closed() {
    if (inbox.stopped()) return inbox.error();
    std::scoped_lock lock(why_mutex);
    return why.value_or(Error{ErrorCode::Closed, "closed", {}});
  }

  // Under send_mutex: room for a record, waiting for it if need be.
  Result<std::span<std::byte>> claim(std::size_t bytes, const Deadline& deadline) {
    while (true) {
      if (closed.load(std::memory_order_acquire)) return std::unexpected(why_closed());
      auto room = writer.claim(bytes);
      if (!room) return std::unexpected(room.error());
      if (*room) return **room;
      if (passed(deadline)) {
        return failure(ErrorCode::DeadlineExceeded, "the other side does not read: its ring of " +
                                                        std::to_string(writer.capacity()) +
                                                        " bytes stays full");
      }
      Deadline tick = Clock::now() + kRoomTick;
      writer.wait_for_room(bytes, deadline && *deadline < *tick ? deadline : tick);
    }
  }

  Result<void> send_spilled(protocol::RecordKind kind, std::size_t body_bytes, const void* message,
                            WriteBody write, Urgency urgency, const Deadline& deadline) {
    if (!options.spill_arena || !options.issue_lease || body_bytes > protocol::kMaxBodyBytes) {
      return failure(ErrorCode::Protocol,
                     "a message of " + std::to_string(body_bytes) + " bytes is larger than the " +
                         std::to_string(max_record_bytes(options.ring_capacity)) +
                         " that fit a record of the ring");
    }
    // Room first: a block that could not be announced would be nobody's to give back.
    protocol::Spill spill;
    const std::size_t bytes = encoded_bytes(spill);
    auto room = claim(bytes, deadline);
    if (!room) return std::unexpected(room.error());
    auto block = options.spill_arena->allocate(body_bytes);
    if (!block) {
      writer.abort();
      return std::unexpected(block.error());
    }
    write(message, {block->data, body_bytes});
    spill.body = {protocol::MemoryKind::Segment, block->segment, block->offset, body_bytes,
                  options.issue_lease(block->id)};
    encode(spill, *room);
    writer.commit(kind, bytes, true, urgency);
    return {};
  }
};

Channel::Channel(std::shared_ptr<Segment> ring, Side side, Options options, Handler handler)
    : impl_(std::make_unique<Impl>(std::move(ring), side, std::move(options), std::move(handler))) {
}
Channel::~Channel() = default;

Result<void> Channel::send_encoded(protocol::RecordKind kind, std::size_t body_bytes,
                                   const void* message, WriteBody write, Urgency urgency,
                                   const Deadline& deadline) {
  std::scoped_lock lock(impl_->send_mutex);
  if (body_bytes > max_record_bytes(impl_->options.ring_capacity)) {
    return impl_->send_spilled(kind, body_bytes, message, write, urgency, deadline);
  }
  auto room = impl_->claim(body_bytes, deadline);
  if (!room) return std::unexpected(room.error());
  write(message, *room);
  impl_->writer.commit(kind, body_bytes, false, urgency);
  return {};
}

void Channel::release_later(std::uint64_t lease, std::span<const protocol::EventSlot> after) {
  impl_->release(lease, after);
}

void Channel::seen_later(const protocol::EventSlot& event) {
  std::scoped_lock lock(impl_->release_mutex);
  impl_->seen.push_back(event);
}

void Channel::set_release_notify(std::function<void()> notify) {
  std::scoped_lock lock(impl_->release_mutex);
  impl_->notify = std::move(notify);
}

void Channel::take_releases(GivenBack& out) {
  constexpr std::size_t kMost = 4096;  // in one message; the rest goes with the next
  out.clear();
  std::scoped_lock lock(impl_->release_mutex);
  std::size_t count = std::min(kMost, impl_->releases.size());
  for (std::size_t i = 0; i < count; ++i) out.releases.push_back({impl_->releases[i], {}});
  impl_->releases.erase(impl_->releases.begin(),
                        impl_->releases.begin() + static_cast<std::ptrdiff_t>(count));
  if (!impl_->device_releases.empty()) impl_->take_device_releases(out, kMost - count);
  out.seen.swap(impl_->seen);
}

void Channel::keep_releases(const GivenBack& unsent) {
  std::scoped_lock lock(impl_->release_mutex);
  for (const auto& release : unsent.releases) {
    if (release.after.empty()) {
      impl_->releases.push_back(release.lease);
    } else {
      impl_->device_releases.push_back(
          {release.lease, {release.after.begin(), release.after.end()}});
    }
  }
  impl_->seen.insert(impl_->seen.end(), unsent.seen.begin(), unsent.seen.end());
}

Result<void> Channel::flush_releases(Urgency urgency) {
  std::unique_lock lock(impl_->send_mutex, std::try_to_lock);
  if (!lock) return {};  // whoever sends will take them along, or the next flush does
  GivenBack batch;
  take_releases(batch);
  if (batch.empty()) return {};
  protocol::Release message{batch.releases, batch.seen};
  auto room = impl_->writer.claim(encoded_bytes(message));
  if (!room) return std::unexpected(room.error());
  if (!*room) {
    keep_releases(batch);
    return {};
  }
  std::size_t bytes = encode(message, **room);
  impl_->writer.commit(protocol::RecordKind::Release, bytes, false, urgency);
  return {};
}

Inbox& Channel::inbox() noexcept { return impl_->inbox; }

void Channel::close(Error why) {
  impl_->inbox.stop(std::move(why));
  if (!impl_->closed.exchange(true)) impl_->writer.wake();
}

void Channel::close_sending(Error why) {
  {
    std::scoped_lock lock(impl_->why_mutex);
    if (!impl_->why) impl_->why = std::move(why);
  }
  impl_->closed.store(true);
  impl_->writer.wake();
  std::scoped_lock nobody_sends(impl_->send_mutex);
}

bool Channel::closed() const noexcept {
  return impl_->closed.load(std::memory_order_acquire) || impl_->inbox.stopped();
}

}  // namespace tensorferry
