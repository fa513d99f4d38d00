#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <string>
#include <utility>

#include "endpoint_impl.h"

namespace tensorferry {

// What arrives is taken in by whoever reads the ring just now, and queued for receive().
Result<void> Endpoint::Impl::on_message(const Received& message) {
  std::span<const protocol::LeaseRelease> releases;
  std::optional<EndpointMessage> arrival;
  std::vector<std::uint64_t> came_home;
  if (message.kind == protocol::RecordKind::Release) {
    auto release = decode_private<protocol::Release>(message.body, message.scratch);
    if (!release) return std::unexpected(release.error());
    releases = release->releases;
  } else if (message.kind == protocol::RecordKind::User) {
    auto user = decode_private<protocol::UserMessage>(message.body, message.scratch);
    if (!user) return std::unexpected(user.error());
    auto taken = take(*user, came_home);
    if (!taken) return std::unexpected(taken.error());
    arrival = std::move(*taken);
    releases = user->releases;
  } else {
    return failure(ErrorCode::Protocol, "an unexpected record came");
  }
  std::scoped_lock lock(mutex);
  for (const auto& release : releases) {
    if (std::erase(came_home, release.lease) == 0 && !lent.release(release.lease)) {
      return failure(ErrorCode::Protocol,
                     "lease " + std::to_string(release.lease) + " is given back and was not lent");
    }
  }
  if (arrival && !closed) {
    received.push_back(std::move(*arrival));
    arrived.signal();
  }
  return {};
}

Result<EndpointMessage> Endpoint::Impl::take(const protocol::UserMessage& user,
                                             std::vector<std::uint64_t>& came_home) {
  EndpointMessage message;
  message.tag = user.tag;
  for (const protocol::TensorRecord& record : user.tensors) {
    EndpointTensor& tensor = message.tensors.emplace_back();
    tensor.name = record.name;
    tensor.dtype = record.dtype;
    tensor.shape.assign(record.shape.begin(), record.shape.end());
    if (!record.strides.empty() || record.device.kind != DeviceKind::Cpu)
      return failure(ErrorCode::Protocol, "a tensor came that is not in C order on the CPU");
    if (record.memory.kind == protocol::MemoryKind::Inline) {
      tensor.small.resize(record.inline_bytes.size());
      copy_payload(tensor.small.data(), record.inline_bytes.data(), record.inline_bytes.size(),
                   CopyKind::Inline);
      continue;
    }
    if (record.memory.kind != protocol::MemoryKind::Segment)
      return failure(ErrorCode::Protocol, "a tensor lies where none may");
    auto shared = take_shared(user, record.memory, came_home);
    if (!shared) return std::unexpected(shared.error());
    tensor.shared = std::move(*shared);
  }
  return message;
}

Result<SharedBytes> Endpoint::Impl::take_shared(const protocol::UserMessage& user,
                                                const protocol::MemoryRef& memory,
                                                std::vector<std::uint64_t>& came_home) {
  auto home = take_home(user, memory, came_home);
  if (!home) return std::unexpected(home.error());
  if (*home) return std::move(**home);
  auto range = segments.resolve(memory);
  if (!range) return std::unexpected(range.error());
  auto holder = std::make_shared<SharedBytes::Holder>();
  std::scoped_lock lock(mutex);
  if (auto noted = out.insert(memory.lease, memory.place, memory.offset, memory.bytes); !noted)
    return std::unexpected(noted.error());
  held.emplace(memory.lease, *range);
  holder->owner = shared_from_this();
  holder->segment = range->segment;
  holder->lease = memory.lease;
  SharedBytes shared;
  shared.bytes_ = range->bytes;
  shared.holder_ = std::move(holder);
  return shared;
}

// Our own block that comes back: the peer's hold ends with this message, which says so once.
Result<std::optional<SharedBytes>> Endpoint::Impl::take_home(
    const protocol::UserMessage& user, const protocol::MemoryRef& memory,
    std::vector<std::uint64_t>& came_home) {
  std::scoped_lock lock(mutex);
  auto range = lent.find(memory.lease);
  if (!range || !range->contains(memory.place, memory.offset, memory.bytes)) return std::nullopt;
  if (std::ranges::find(user.releases, memory.lease, &protocol::LeaseRelease::lease) ==
      user.releases.end()) {
    return failure(ErrorCode::Protocol, "a range comes back that the other end keeps");
  }
  lent.take_back(memory.lease);  // its hold becomes the receiver's
  came_home.push_back(memory.lease);
  SharedBytes shared;
  shared.holder_ = std::make_shared<SharedBytes::Holder>();
  shared.holder_->owner = shared_from_this();
  shared.holder_->block = range->block;
  shared.bytes_ = {range->data + (memory.offset - range->offset), memory.bytes};
  return shared;
}

Result<std::optional<EndpointMessage>> Endpoint::Impl::receive(const Deadline& deadline) {
  if (receiving.exchange(true, std::memory_order_acquire))
    return failure(ErrorCode::InvalidArgument, "another thread receives from this end just now");
  struct Leave {
    std::atomic<bool>& flag;
    ~Leave() { flag.store(false, std::memory_order_release); }
  } leave{receiving};
  bool last_look = false;
  while (true) {
    bool over = false;
    {
      std::scoped_lock lock(mutex);
      if (!received.empty()) {
        EndpointMessage message = std::move(received.front());
        received.pop_front();
        return message;
      }
      if (channel.inbox().stopped()) return std::unexpected(broken_off());
      if (last_look) return std::unexpected(*ended);
      over = ended.has_value();
      if (!over) arrived.reset();
    }
    if (over) {
      // The peer may have sent something before it ended. Whoever leads just now reads it too.
      last_look = channel.inbox().poll();
      if (!last_look) std::this_thread::yield();
      continue;
    }
    // Idle from here: what was let go of goes home now.
    if (auto flushed = channel.flush_releases(); !flushed) return std::unexpected(flushed.error());
    if (channel.inbox().wait(arrived, deadline) == WaitStatus::TimedOut) return std::nullopt;
  }
}

}  // namespace tensorferry
