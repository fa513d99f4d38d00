#include <tensorferry/transport/ring.h>

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

// How often the flag may change under us: a consumer that keeps to the protocol changes it a few
// times per record, one that does not cannot hold us here.
constexpr int kMostTries = 100;

void wake_one(std::atomic<std::uint32_t>& word) noexcept {
  word.fetch_add(1, std::memory_order_release);
  futex_wake(word, 1, FutexScope::Shared);
}

// Wakes the consumer's thread of that kind; the flag is taken down by exactly one of us.
void wake_sleeper(protocol::RingHeader& header, bool background_too) noexcept {
  Sleeper sleeper = header.sleeper.load(std::memory_order_relaxed);
  for (int i = 0; i < kMostTries; ++i) {
    if (sleeper == Sleeper::None || (sleeper == Sleeper::Background && !background_too)) return;
    if (!header.sleeper.compare_exchange_weak(sleeper, Sleeper::None, std::memory_order_acq_rel))
      continue;
    if (sleeper == Sleeper::Foreground) return wake_one(header.wake_foreground);
    if (sleeper == Sleeper::Background) return wake_one(header.wake_background);
    break;
  }
  // No value that the protocol knows: somebody wrote over the flag. Whoever sleeps shall look.
  wake_one(header.wake_foreground);
  wake_one(header.wake_background);
}

}  // namespace

RingWriter::RingWriter(std::byte* memory, std::size_t capacity) noexcept
    : header_(reinterpret_cast<protocol::RingHeader*>(memory)),
      data_(memory + protocol::kRingDataAt),
      capacity_(capacity) {}

std::size_t RingWriter::pad_before(std::size_t record_bytes) const noexcept {
  const std::size_t to_end = capacity_ - (tail_ & (capacity_ - 1));
  return record_bytes > to_end ? to_end : 0;
}

bool RingWriter::has_room(std::size_t bytes, std::uint64_t head) const noexcept {
  return tail_ + bytes - head <= capacity_;
}

Result<std::optional<std::span<std::byte>>> RingWriter::claim(std::size_t body_bytes) noexcept {
  expects(body_bytes <= max_record_bytes(capacity_), "a record fits its ring");
  claimed_ = false;
  claimed_pad_ = pad_before(record_bytes(body_bytes));
  claimed_body_ = body_bytes;
  const std::size_t wanted = claimed_pad_ + record_bytes(body_bytes);
  if (!has_room(wanted, cached_head_)) {
    const std::uint64_t head = header_->head.load(std::memory_order_acquire);
    if (head > tail_ || head < cached_head_ || tail_ - head > capacity_ ||
        head % kRingAlignment != 0) {
      return failure(ErrorCode::Protocol,
                     "the ring's head was overwritten: " + std::to_string(head));
    }
    cached_head_ = head;
    if (!has_room(wanted, head)) return std::nullopt;
  }
  claimed_ = true;
  std::byte* record = data_ + (claimed_pad_ ? 0 : tail_ & (capacity_ - 1));
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
  const std::size_t wanted = record_bytes(body_bytes);
  wake_sleeper(*header_, true);  // somebody has to make room
  const std::uint32_t seen = header_->wake_space.load(std::memory_order_acquire);
  header_->space_sleeper.store(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint64_t head = header_->head.load(std::memory_order_relaxed);
  const bool impossible = tail_ - head > capacity_;  // claim() says what is wrong with it
  if (!impossible && !has_room(pad_before(wanted) + wanted, head))
    futex_wait(header_->wake_space, seen, deadline, FutexScope::Shared);
  header_->space_sleeper.store(0, std::memory_order_relaxed);
}

void RingWriter::wake() noexcept { wake_one(header_->wake_space); }

}  // namespace tensorferry
