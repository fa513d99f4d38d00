#include <tensorferry/transport/copy.h>

#include <atomic>
#include <cstring>

namespace tensorferry {
namespace {

struct Counter {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> bytes{0};
};
Counter counters[kCopyKinds];

// Copies the block that starts at dimension `axis`; the innermost one in a piece where it is
// packed.
std::byte* gather(std::byte* to, const std::byte* from, const std::int64_t* shape,
                  const std::int64_t* strides, std::size_t rank, std::size_t element) noexcept {
  if (rank == 0) {
    std::memcpy(to, from, element);
    return to + element;
  }
  if (rank == 1 && strides[0] == static_cast<std::int64_t>(element)) {
    std::size_t bytes = static_cast<std::size_t>(shape[0]) * element;
    std::memcpy(to, from, bytes);
    return to + bytes;
  }
  for (std::int64_t i = 0; i < shape[0]; ++i) {
    to = gather(to, from + i * strides[0], shape + 1, strides + 1, rank - 1, element);
  }
  return to;
}

}  // namespace

void count_copy(std::size_t bytes, CopyKind kind) noexcept {
  Counter& counter = counters[static_cast<std::size_t>(kind)];
  counter.calls.fetch_add(1, std::memory_order_relaxed);
  counter.bytes.fetch_add(bytes, std::memory_order_relaxed);
}

void copy_payload(void* to, const void* from, std::size_t bytes, CopyKind kind) noexcept {
  if (bytes != 0) std::memcpy(to, from, bytes);
  count_copy(bytes, kind);
}

void copy_strided(void* to, const void* from, const std::int64_t* shape,
                  const std::int64_t* strides_bytes, std::size_t rank,
                  std::size_t element_bytes) noexcept {
  auto* begin = static_cast<std::byte*>(to);
  std::byte* end =
      gather(begin, static_cast<const std::byte*>(from), shape, strides_bytes, rank, element_bytes);
  count_copy(static_cast<std::size_t>(end - begin), CopyKind::Host);
}

CopyCounts copy_counts() noexcept {
  CopyCounts counts;
  for (std::size_t kind = 0; kind < kCopyKinds; ++kind) {
    counts.calls[kind] = counters[kind].calls.load(std::memory_order_relaxed);
    counts.bytes[kind] = counters[kind].bytes.load(std::memory_order_relaxed);
  }
  return counts;
}

}  // namespace tensorferry
