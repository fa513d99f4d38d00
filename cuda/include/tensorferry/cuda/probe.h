// Trying a rung for real, at the start of a stub. Both sides do their half, over messages:
//
//   server  writes a pattern into a block of a chunk, records `ready`      → Probe
//   stub    waits for `ready` on its stream, reads the block back, answers with the checksum of
//           what it saw, after it has written a pattern of its own and recorded `done` →
//           ProbeAnswer
//   server  sees `done`, reads the block, compares both
//
// Without events each side waits on the host until its own writing is done, before it says so. Give
// each half a deadline: where events don't cross they may never be done (DeadlineExceeded).
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace tensorferry::cuda {

inline constexpr std::size_t kProbeBytes = 4096;
// For each half, on a machine that has much else to do.
inline constexpr std::chrono::seconds kProbePatience{5};

// The events that carry the order: the server records `ready`, the stub `done`.
struct ProbeEvents {
  EventHandle ready = nullptr;
  EventHandle done = nullptr;
};

// Where this side has the block, and its events; none on a rung without them.
struct ProbePlace {
  DevicePtr at = 0;  // kProbeBytes
  std::optional<ProbeEvents> events;
};

struct ProbeAnswer {
  std::uint64_t seen = 0;  // checksum of what was read
  std::uint64_t seed = 0;  // of the pattern that was written
};

// One that the other side can't guess.
std::uint64_t probe_seed();
// The bytes that a seed stands for, and the checksum of any.
void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) noexcept;
std::uint64_t checksum(std::span<const std::byte> bytes) noexcept;

// Server, first half. `seed` is random and is not told to the stub.
Result<void> begin_probe(const Stream& stream, const ProbePlace& place, std::uint64_t seed,
                         const Deadline& deadline = {});
// Stub. `seed` is random, too. Its own writing may go on when this returns: before the memory is
// unmapped here, `stream` has to be done.
Result<ProbeAnswer> answer_probe(const Stream& stream, const ProbePlace& place, std::uint64_t seed,
                                 const Deadline& deadline = {});
// Server, second half. The error says which direction failed. `given_up`: the stub is dead.
Result<void> check_probe(const Stream& stream, const ProbePlace& place, std::uint64_t seed,
                         const ProbeAnswer& answer, const Deadline& deadline = {},
                         const std::function<bool()>& given_up = {});

}  // namespace tensorferry::cuda
