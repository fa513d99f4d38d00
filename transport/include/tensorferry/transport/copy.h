// The one function that copies payload, and its counters. Whoever copies a tensor's bytes calls it,
// so that "zero-copy" can be asserted; from outside they are seen as "copies" and "copied_bytes"
// with the label `kind` (counters.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tensorferry {

enum class CopyKind : std::uint8_t {
  Inline,
  Host,
  HostToDevice,
  DeviceToHost,
  DeviceToDevice,
  Peer
};
inline constexpr std::size_t kCopyKinds = 6;
// As metrics and counters call it: "inline", "host", "h2d", "d2h", "d2d", "peer".
std::string_view to_string(CopyKind kind) noexcept;

struct CopyCounts {
  std::uint64_t calls[kCopyKinds] = {};
  std::uint64_t bytes[kCopyKinds] = {};
  std::uint64_t calls_of(CopyKind kind) const noexcept {
    return calls[static_cast<std::size_t>(kind)];
  }
  std::uint64_t bytes_of(CopyKind kind) const noexcept {
    return bytes[static_cast<std::size_t>(kind)];
  }
};

// memcpy, counted; around the caches where it is large. The ranges do not overlap. `kind` is Inline
// for tensors that travel inside a message and Host for all others. Thread-safe.
void copy_payload(void* to, const void* from, std::size_t bytes,
                  CopyKind kind = CopyKind::Host) noexcept;
// A strided gather into C order, counted as one copy of the packed size. Strides in bytes.
void copy_strided(void* to, const void* from, const std::int64_t* shape,
                  const std::int64_t* strides_bytes, std::size_t rank,
                  std::size_t element_bytes) noexcept;
// Counts a copy that a library made for us (NumPy packing an array, a driver's memcpy).
void count_copy(std::size_t bytes, CopyKind kind) noexcept;

// Of this process, since it started; a forked child counts on.
CopyCounts copy_counts() noexcept;

}  // namespace tensorferry
