#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/probe.h>

#include <array>
#include <cstring>
#include <random>

#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

using Page = std::array<std::byte, kProbeBytes>;

// Modulo 2^64, meant so.
std::uint64_t times(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t product;
  (void)__builtin_mul_overflow(a, b, &product);
  return product;
}

// Sebastiano Vigna's splitmix64: a different word for each step of any seed.
std::uint64_t next_word(std::uint64_t& state) noexcept {
  (void)__builtin_add_overflow(state, 0x9e3779b97f4a7c15, &state);
  std::uint64_t z = state;
  z = times(z ^ (z >> 30), 0xbf58476d1ce4e5b9);
  z = times(z ^ (z >> 27), 0x94d049bb133111eb);
  return z ^ (z >> 31);
}

// A pattern is no payload: it isn't counted as such.
Result<void> copy_pattern(DevicePtr to, DevicePtr from, StreamHandle stream) {
  return call<"cuMemcpyAsync">(to, from, kProbeBytes, stream);
}

// One side's half, with an event to wait on until its own copies are done.
class Prober {
 public:
  static Result<Prober> on(const Stream& stream) {
    auto event = make_event(false);
    if (!event) return std::unexpected(event.error());
    return Prober(stream, std::move(*event));
  }

  // From memory that isn't pinned the driver takes the bytes before it returns; they arrive later.
  Result<void> write(DevicePtr at, std::uint64_t seed) {
    Page page;
    fill_pattern(page, seed);
    return copy_pattern(at, device_ptr(page.data()), stream_->get());
  }

  Result<std::uint64_t> read(DevicePtr at, const Deadline& deadline) {
    Page page{};
    if (auto got = copy_pattern(device_ptr(page.data()), at, stream_->get()); !got)
      return std::unexpected(got.error());
    if (auto done = settle(deadline); !done) return std::unexpected(done.error());
    return checksum(page);
  }

  // What was written may be read by the peer: behind `event`, or, where there is none, now.
  Result<void> announce(const std::optional<ProbeEvents>& events, EventHandle ProbeEvents::* which,
                        const Deadline& deadline) {
    return events ? record((*events).*which, stream_->get()) : settle(deadline);
  }

  // All that was put on the stream is done.
  Result<void> settle(const Deadline& deadline) {
    if (auto put = record(event_.get(), stream_->get()); !put) return put;
    return wait_on_host(event_.get(), WaitReason::Probe, deadline);
  }

 private:
  Prober(const Stream& stream, Event event) noexcept : stream_(&stream), event_(std::move(event)) {}

  const Stream* stream_;
  Event event_;
};

}  // namespace

std::uint64_t probe_seed() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) noexcept {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof seed) {
    const std::uint64_t word = next_word(seed);
    std::memcpy(bytes.data() + at, &word, std::min(sizeof word, bytes.size() - at));
  }
}

std::uint64_t checksum(std::span<const std::byte> bytes) noexcept {
  std::uint64_t sum = 0xcbf29ce484222325;  // FNV-1a
  for (std::byte byte : bytes) sum = times(sum ^ static_cast<std::uint64_t>(byte), 0x100000001b3);
  return sum;
}

Result<void> begin_probe(const Stream& stream, const ProbePlace& place, std::uint64_t seed,
                         const Deadline& deadline) {
  auto guard = ContextGuard::enter(*stream.context());
  if (!guard) return std::unexpected(guard.error());
  auto prober = Prober::on(stream);
  if (!prober) return std::unexpected(prober.error());
  if (auto written = prober->write(place.at, seed); !written) return written;
  return prober->announce(place.events, &ProbeEvents::ready, deadline);
}

Result<ProbeAnswer> answer_probe(const Stream& stream, const ProbePlace& place, std::uint64_t seed,
                                 const Deadline& deadline) {
  auto guard = ContextGuard::enter(*stream.context());
  if (!guard) return std::unexpected(guard.error());
  auto prober = Prober::on(stream);
  if (!prober) return std::unexpected(prober.error());
  if (place.events) {
    if (auto waits = wait_event(stream.get(), place.events->ready); !waits)
      return std::unexpected(waits.error());
    // A copy to memory that isn't pinned waits in the driver, without a deadline: not behind an
    // event that may never be done.
    if (auto came = prober->settle(deadline); !came) return std::unexpected(came.error());
  }
  auto seen = prober->read(place.at, deadline);
  if (!seen) return std::unexpected(seen.error());
  if (auto written = prober->write(place.at, seed); !written)
    return std::unexpected(written.error());
  if (auto told = prober->announce(place.events, &ProbeEvents::done, deadline); !told)
    return std::unexpected(told.error());
  return ProbeAnswer{.seen = *seen, .seed = seed};
}

Result<void> check_probe(const Stream& stream, const ProbePlace& place, std::uint64_t seed,
                         const ProbeAnswer& answer, const Deadline& deadline,
                         const std::function<bool()>& given_up) {
  auto guard = ContextGuard::enter(*stream.context());
  if (!guard) return std::unexpected(guard.error());
  // First of all the stub's work on the block comes to its end, whatever it has seen.
  if (place.events) {
    if (auto done = wait_on_host(place.events->done, WaitReason::Probe, deadline, given_up); !done)
      return done;
  }
  Page page;
  fill_pattern(page, seed);
  if (answer.seen != checksum(page))
    return failure(ErrorCode::Unavailable,
                   "the stub saw other bytes than the server wrote to their shared device memory");
  auto prober = Prober::on(stream);
  if (!prober) return std::unexpected(prober.error());
  auto seen = prober->read(place.at, deadline);
  if (!seen) return std::unexpected(seen.error());
  fill_pattern(page, answer.seed);
  if (*seen != checksum(page))
    return failure(ErrorCode::Unavailable,
                   "the server saw other bytes than the stub wrote to their shared device memory");
  return {};
}

}  // namespace tensorferry::cuda
