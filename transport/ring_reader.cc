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

Error overwritten(const std::string& what) {
  return {ErrorCode::Protocol, "the ring was overwritten: " + what, {}};
}

}  // namespace

RingReader::RingReader(std::byte* memory, std::size_t capacity) noexcept
    : header_(reinterpret_cast<protocol::RingHeader*>(memory)),
      data_(memory + protocol::kRingDataAt),
      capacity_(capacity) {}

bool RingReader::ready() const noexcept {
  return header_->tail.load(std::memory_order_acquire) != head_;
}

bool RingReader::drained() const noexcept {
  return header_->tail.load(std::memory_order_acquire) ==
         header_->head.load(std::memory_order_acquire);
}

Result<std::optional<RingRecord>> RingReader::peek() noexcept {
  auto record = next_record();
  if (!record || !*record || (*record)->kind != RecordKind::Pad) return record;
  // A pad reaches to the end of the ring and comes together with the record that it makes room for:
  // two steps at most, whatever the peer writes meanwhile.
  if (((head_ + pending_) & (capacity_ - 1)) != 0)
    return std::unexpected(overwritten("padding that does not end where the ring does"));
  consume();
  record = next_record();
  if (record && (!*record || (*record)->kind == RecordKind::Pad))
    return std::unexpected(overwritten("padding without a record behind it"));
  return record;
}

Result<std::optional<RingRecord>> RingReader::next_record() noexcept {
  const std::uint64_t tail = header_->tail.load(std::memory_order_acquire);
  if (tail == head_) return std::nullopt;
  if (tail < head_ || tail - head_ > capacity_ || tail % kRingAlignment != 0)
    return std::unexpected(overwritten("its tail is " + std::to_string(tail)));
  const std::size_t at = head_ & (capacity_ - 1);
  RecordHeader header;
  std::memcpy(&header, data_ + at, sizeof header);  // once: the peer may still write there
  const std::uint64_t whole =
      (sizeof header + std::uint64_t{header.body_bytes} + kRingAlignment - 1) / kRingAlignment *
      kRingAlignment;
  if (whole > tail - head_ || whole > capacity_ - at || header.spilled > 1) {
    return std::unexpected(overwritten("a record of " + std::to_string(header.body_bytes) +
                                       " bytes, marked " + std::to_string(header.spilled)));
  }
  pending_ = whole;
  return RingRecord{
      header.kind, header.spilled != 0, {data_ + at + sizeof header, header.body_bytes}};
}

void RingReader::consume() noexcept {
  head_ += pending_;
  pending_ = 0;
  header_->head.store(head_, std::memory_order_release);
  // Head and the producer's flag are the other Dekker pair.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (header_->space_sleeper.load(std::memory_order_relaxed) != 0 &&
      header_->space_sleeper.exchange(0) != 0) {
    header_->wake_space.fetch_add(1, std::memory_order_release);
    futex_wake(header_->wake_space, 1, FutexScope::Shared);
  }
}

void RingReader::wait(const Deadline& deadline) noexcept {
  auto something = [this] { return ready() || woken_.load(std::memory_order_relaxed); };
  if (!spin_.wait(something)) {
    std::uint32_t seen = header_->wake_foreground.load(std::memory_order_acquire);
    header_->sleeper.store(Sleeper::Foreground, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!something()) futex_wait(header_->wake_foreground, seen, deadline, FutexScope::Shared);
    header_->sleeper.store(Sleeper::None, std::memory_order_relaxed);
    spin_.woke();
  }
  // A wake() that comes after this one's end is the next wait's; what came before one that is taken
  // here is seen by the caller, who looks at its own again.
  woken_.exchange(false, std::memory_order_acq_rel);
}

bool RingReader::arm_background() noexcept {
  header_->sleeper.store(Sleeper::Background, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!ready()) return true;
  header_->sleeper.store(Sleeper::None, std::memory_order_relaxed);
  return false;
}

void RingReader::disarm_background() noexcept {
  header_->sleeper.store(Sleeper::None, std::memory_order_relaxed);
}

std::uint32_t RingReader::background_ticket() const noexcept {
  return header_->wake_background.load(std::memory_order_acquire);
}

void RingReader::background_wait(std::uint32_t ticket) noexcept {
  futex_wait(header_->wake_background, ticket, {}, FutexScope::Shared);
}

void RingReader::wake() noexcept {
  woken_.store(true, std::memory_order_release);
  header_->wake_foreground.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(header_->wake_foreground, 1, FutexScope::Shared);
}

void RingReader::wake_background() noexcept {
  header_->wake_background.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(header_->wake_background, 1, FutexScope::Shared);
}

}  // namespace tensorferry
