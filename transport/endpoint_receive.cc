#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "endpoint_impl.h"

namespace tensorferry {

namespace {

// How often a message of a peer that is gone is looked after, and whether its process lives.
constexpr std::chrono::milliseconds kLookAfter{10};

Error died_before_it_was_done() {
  return {ErrorCode::StubDied,
          "gpu_peer_died: the other end's process ended before its work on a device tensor of "
          "this message was done",
          {}};
}

}  // namespace

// What arrives is taken in by whoever reads the ring just now, and queued for receive().
Result<void> Endpoint::Impl::on_message(const Received& message) {
  std::vector<std::uint64_t> came_home;
  if (message.kind == protocol::RecordKind::Release) {
    auto release = decode_private<protocol::Release>(message.body, message.scratch);
    if (!release) return std::unexpected(release.error());
    if (auto seen = devices.seen(release->seen); !seen) return seen;
    return give_back(release->releases, came_home);
  }
  if (message.kind != protocol::RecordKind::User)
    return failure(ErrorCode::Protocol, "an unexpected record came");
  auto user = decode_private<protocol::UserMessage>(message.body, message.scratch);
  if (!user) return std::unexpected(user.error());
  if (auto seen = devices.seen(user->seen); !seen) return seen;
  auto arrival = take(*user, came_home);
  if (!arrival) return std::unexpected(arrival.error());
  if (auto given = give_back(user->releases, came_home); !given) return given;
  return complete_later(*user, *arrival);
}

Result<void> Endpoint::Impl::give_back(std::span<const protocol::LeaseRelease> releases,
                                       std::vector<std::uint64_t>& came_home) {
  std::scoped_lock lock(mutex);
  for (const auto& release : releases) {
    if (std::erase(came_home, release.lease) > 0) continue;
    // The holds of a peer that is gone are void, and it may have said so just then.
    if (ended && !lent.find(release.lease)) continue;
    if (!release.after.empty() || !lent.release(release.lease)) {
      return failure(ErrorCode::Protocol,
                     "lease " + std::to_string(release.lease) + " is given back and was not lent");
    }
    device_loans.erase(release.lease);
  }
  return {};
}

// In order of arrival: a message whose device tensors are not complete holds up those behind it.
Result<void> Endpoint::Impl::complete_later(const protocol::UserMessage& user,
                                            const ArrivalPtr& arrival) {
  {
    std::scoped_lock lock(mutex);
    if (closed) return {};
    arrival->pending = !user.ready.empty();
    received.push_back(arrival);
    if (!arrival->pending) arrived.signal();
  }
  if (user.ready.empty()) return {};
  return devices.when_complete(user.ready,
                               [self = shared_from_this(), arrival](
                                   Result<void> how, const std::vector<protocol::EventSlot>& seen) {
                                 for (const protocol::EventSlot& event : seen)
                                   self->channel.seen_later(event);
                                 {
                                   std::scoped_lock lock(self->mutex);
                                   arrival->pending = false;
                                   if (!how) arrival->lost = std::move(how.error());
                                   self->arrived.signal();
                                 }
                                 self->channel.inbox().interrupt();
                               });
}

Result<Endpoint::Impl::ArrivalPtr> Endpoint::Impl::take(const protocol::UserMessage& user,
                                                        std::vector<std::uint64_t>& came_home) {
  auto arrival = std::make_shared<Arrival>();
  arrival->message.tag = user.tag;
  for (const protocol::TensorRecord& record : user.tensors) {
    EndpointTensor& tensor = arrival->message.tensors.emplace_back();
    auto taken = take_tensor(user, record, came_home, tensor);
    if (taken) continue;
    if (record.device.kind == DeviceKind::Cpu || taken.error().code == ErrorCode::Protocol)
      return std::unexpected(taken.error());
    // Its memory is there and can't be reached: the peer has it back.
    if (record.memory.lease != 0) channel.release_later(record.memory.lease);
    if (!arrival->lost) {
      arrival->lost = taken.error();
      arrival->lost->message = "tensor '" + std::string(record.name.substr(0, 200)) +
                               "' can't be received: " + arrival->lost->message;
    }
  }
  return arrival;
}

Result<void> Endpoint::Impl::take_tensor(const protocol::UserMessage& user,
                                         const protocol::TensorRecord& record,
                                         std::vector<std::uint64_t>& came_home,
                                         EndpointTensor& tensor) {
  tensor.name = record.name;
  tensor.dtype = record.dtype;
  tensor.shape.assign(record.shape.begin(), record.shape.end());
  const bool on_device = record.device.kind == DeviceKind::Cuda;
  if (!record.strides.empty() || (record.device.kind != DeviceKind::Cpu && !on_device))
    return failure(ErrorCode::Protocol, "a tensor came that is not in C order where it may lie");
  if (record.memory.kind == protocol::MemoryKind::Inline && !on_device) {
    tensor.small.resize(record.inline_bytes.size());
    copy_payload(tensor.small.data(), record.inline_bytes.data(), record.inline_bytes.size(),
                 CopyKind::Inline);
    return {};
  }
  auto shared = on_device ? take_device(user, record, came_home)
                          : take_shared(user, record.memory, came_home);
  if (!shared) return std::unexpected(shared.error());
  tensor.shared = std::move(*shared);
  return {};
}

Result<SharedBytes> Endpoint::Impl::take_shared(const protocol::UserMessage& user,
                                                const protocol::MemoryRef& memory,
                                                std::vector<std::uint64_t>& came_home) {
  if (memory.kind != protocol::MemoryKind::Segment)
    return failure(ErrorCode::Protocol, "a tensor lies where none may");
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
Result<std::optional<SharedBytes>> Endpoint::Impl::take_home(const protocol::UserMessage& user,
                                                             const protocol::MemoryRef& memory,
                                                             std::vector<std::uint64_t>& came_home,
                                                             DeviceLinks::Home* home) {
  std::scoped_lock lock(mutex);
  auto range = lent.find(memory.lease);
  if (!range || range->arena != (home ? &home->arena : nullptr) ||
      !range->contains(memory.place, memory.offset, memory.bytes))
    return std::nullopt;
  if (std::ranges::find(user.releases, memory.lease, &protocol::LeaseRelease::lease) ==
      user.releases.end()) {
    return failure(ErrorCode::Protocol, "a range comes back that the other end keeps");
  }
  lent.take_back(memory.lease);  // its hold becomes the receiver's
  device_loans.erase(memory.lease);
  came_home.push_back(memory.lease);
  SharedBytes shared = own({range->block, 0, 0, memory.bytes, range->data},
                           home ? home->arena : arena, home ? home->place : nullptr);
  shared.bytes_ = {range->data + (memory.offset - range->offset), memory.bytes};
  return shared;
}

// nullptr where the first message that came is not there yet. Under mutex.
Endpoint::Impl::ArrivalPtr Endpoint::Impl::next_received() {
  if (received.empty() || received.front()->pending) return nullptr;
  ArrivalPtr next = std::move(received.front());
  received.pop_front();
  return next;
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
    bool pending = false;
    ArrivalPtr next;  // let go of outside the lock
    {
      std::scoped_lock lock(mutex);
      next = next_received();
      if (next && next->lost) return std::unexpected(*next->lost);
      if (next) return std::move(next->message);
      if (channel.inbox().stopped()) return std::unexpected(broken_off());
      pending = !received.empty();
      if (last_look && !pending) return std::unexpected(*ended);
      over = ended.has_value();
      if (!over || pending) arrived.reset();
    }
    if (over && !pending) {
      // The peer may have sent something before it ended. Whoever leads just now reads it too.
      last_look = channel.inbox().poll();
      if (!last_look) std::this_thread::yield();
      continue;
    }
    // Idle from here: what was let go of goes home now.
    if (!over) {
      if (auto flushed = channel.flush_releases(); !flushed)
        return std::unexpected(flushed.error());
    }
    const auto look_after = Clock::now() + kLookAfter;
    const bool sooner = over && (!deadline || look_after < *deadline);
    if (channel.inbox().wait(arrived, sooner ? look_after : deadline) == WaitStatus::TimedOut &&
        !sooner)
      return std::nullopt;
    if (over && devices.peer_has_ended()) devices.cancel(died_before_it_was_done());
  }
}

}  // namespace tensorferry
