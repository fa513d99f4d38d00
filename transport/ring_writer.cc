#include <tensorferry/transport/ring.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "futex.h"

namespace tensorferry {
namespace {

using protocol::kRingAlignment;
using protocol::RecordHeader;
using protocol::RecordKind;
using protocol::Sleeper;

constexpr std::size_t record_bytes(std::size_t body) {
  return (sizeof(RecordHeader) + body + kRingAlignment - 1) / kRingAlignment * kRingAlignment;
}

// Wakes the consumer's thread of that kind; the flag is taken down by exactly one of us.
void wake_sleeper(protocol::RingHeader& header, bool background_too) noexcept {
  Sleeper sleeper = header.sleeper.load(std::memory_order_relaxed);
  while (sleeper == Sleeper::Foreground || (sleeper == Sleeper::Background && background_too)) {
    if (!header.sleeper.compare_exchange_weak(sleeper, Sleeper::None, std::memory_order_acq_rel))
      continue;
    auto& word = sleeper == Sleeper::Foreground ? header.wake_foreground : header.wake_background;
    word.fetch_add(1, std::memory_order_release);
    futex_wake(word, 1, FutexScope::Shared);
    return;
  }
}

}  // namespace

RingWriter::RingWriter(std::byte* memory, std::size_t capacity) noexcept
    : header_(reinterpret_cast<protocol::RingHeader*>(memory)),
      data_(memory + protocol::kRingDataAt),
      capacity_(capacity) {}

Result<std::optional<std::span<std::byte>>> RingWriter::claim(std::size_t body_bytes) noexcept {
  expects(body_bytes <= max_record_bytes(capacity_), "a record fits its ring");
  const std::size_t wanted = record_bytes(body_bytes);
  const std::size_t at = tail_ & (capacity_ - 1);
  const std::size_t to_end = capacity_ - at;
  claimed_pad_ = wanted > to_end ? to_end : 0;
  claimed_body_ = body_bytes;
  if (tail_ + claimed_pad_ + wanted - cached_head_ > capacity_) {
    std::uint64_t head = header_->head.load(std::memory_order_acquire);
    if (head > tail_ || head < cached_head_ || tail_ - head > capacity_ ||
        head % kRingAlignment != 0) {
      return failure(ErrorCode::Protocol,
                     "the ring's head was overwritten: " + std::to_string(head));
    }
    cached_head_ = head;
    if (tail_ + claimed_pad_ + wanted - head > capacity_) return std::nullopt;
  }
  claimed_ = true;
  std::byte* record = data_ + (claimed_pad_ ? 0 : at);
  return std::span(record + sizeof(RecordHeader), body_bytes);
}

void RingWriter::commit(RecordKind kind, std::size_t body_bytes, bool spilled,
                        Urgency urgency) noexcept {
  expects(claimed_ && body_bytes <= claimed_body_, "what is committed was claimed");
  std::byte* at = data_ + (tail_ & (capacity_ - 1));
  if (claimed_pad_ != 0) {
    RecordHeader pad{static_cast<std::uint32_t>(claimed_pad_ - sizeof(RecordHeader)),
                     RecordKind::Pad, 0};
    std::memcpy(at, &pad, sizeof pad);
    at = data_;
  }
  RecordHeader header{static_cast<std::uint32_t>(body_bytes), kind,
                      static_cast<std::uint16_t>(spilled)};
  std::memcpy(at, &header, sizeof header);
  tail_ += claimed_pad_ + record_bytes(body_bytes);
  claimed_ = false;
  header_->tail.store(tail_, std::memory_order_release);
  // Tail and sleeper are a Dekker pair: the consumer sets its flag and then looks at the tail.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  wake_sleeper(*header_, urgency == Urgency::Urgent);
}

void RingWriter::wait_for_room(std::size_t body_bytes, const Deadline& deadline) noexcept {
  const std::uint64_t needed =
      record_bytes(body_bytes) + record_bytes(body_bytes);  // with the pad at worst
  wake_sleeper(*header_, true);                             // somebody has to make room
  std::uint32_t seen = header_->wake_space.load(std::memory_order_acquire);
  header_->space_sleeper.store(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::uint64_t used = tail_ - header_->head.load(std::memory_order_relaxed);
  bool room = used > capacity_ || capacity_ - used >= std::min<std::uint64_t>(needed, capacity_);
  if (!room) futex_wait(header_->wake_space, seen, deadline, FutexScope::Shared);
  header_->space_sleeper.store(0, std::memory_order_relaxed);
}

void RingWriter::wake() noexcept {
  header_->wake_space.fetch_add(1, std::memory_order_release);
  futex_wake(header_->wake_space, 1, FutexScope::Shared);
}

}  // namespace tensorferry
