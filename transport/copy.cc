#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/counters.h>

#include <array>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tensorferry {
namespace {

struct KindCounters {
  Counter calls, bytes;
};
using AllKinds = std::array<KindCounters, kCopyKinds>;

KindCounters counters_of(std::size_t kind) {
  const CounterLabel label{"kind", to_string(static_cast<CopyKind>(kind))};
  auto& page = Counters::of_process();
  return {page.add("copies", {label}), page.add("copied_bytes", {label})};
}

const AllKinds& counters() noexcept {
  static const AllKinds all = []<std::size_t... kKind>(std::index_sequence<kKind...>) {
    return AllKinds{counters_of(kKind)...};
  }(std::make_index_sequence<kCopyKinds>());
  return all;
}

// From here on a copy drives itself out of the caches as it goes.
constexpr std::size_t kStreamedFrom = 16 << 20;

#if defined(__SSE2__)
// Stores that go around the caches, which saves reading the destination first. glibc's memcpy
// changes to them much later; `bench/micro/copy_bench.cc` has the two side by side.
void copy_streamed(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  constexpr std::size_t kLine = 64;
  const std::size_t head = (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine;
  std::memcpy(to, from, head);
  to += head, from += head, bytes -= head;
  for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine) {
    auto* source = reinterpret_cast<const __m128i*>(from);
    auto* target = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1),
                  c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  _mm_sfence();  // such stores are not ordered before the message that announces them
  std::memcpy(to, from, bytes);
}
#else
void copy_streamed(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}
#endif

// One dimension with a stride, packed. The size is known to the compiler: a move and no call.
template <std::size_t kElement>
void gather_row(std::byte* to, const std::byte* from, std::int64_t count,
                std::int64_t stride) noexcept {
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * kElement, from + i * stride, kElement);
}

void gather_row(std::byte* to, const std::byte* from, std::int64_t count, std::int64_t stride,
                std::size_t element) noexcept {
  switch (element) {
    case 1:
      return gather_row<1>(to, from, count, stride);
    case 2:
      return gather_row<2>(to, from, count, stride);
    case 4:
      return gather_row<4>(to, from, count, stride);
    case 8:
      return gather_row<8>(to, from, count, stride);
    case 16:
      return gather_row<16>(to, from, count, stride);
    default:
      for (std::int64_t i = 0; i < count; ++i)
        std::memcpy(to + i * static_cast<std::int64_t>(element), from + i * stride, element);
  }
}

// Copies `rank` dimensions of elements.
std::byte* gather(std::byte* to, const std::byte* from, const std::int64_t* shape,
                  const std::int64_t* strides, std::size_t rank, std::size_t element) noexcept {
  if (rank == 0) {
    std::memcpy(to, from, element);
    return to + element;
  }
  if (rank == 1) {
    gather_row(to, from, shape[0], strides[0], element);
    return to + static_cast<std::size_t>(shape[0]) * element;
  }
  for (std::int64_t i = 0; i < shape[0]; ++i)
    to = gather(to, from + i * strides[0], shape + 1, strides + 1, rank - 1, element);
  return to;
}

}  // namespace

std::string_view to_string(CopyKind kind) noexcept {
  constexpr std::array<std::string_view, kCopyKinds> kNames{"inline", "host", "h2d",
                                                            "d2h",    "d2d",  "peer"};
  return kNames[static_cast<std::size_t>(kind)];
}

void count_copy(std::size_t bytes, CopyKind kind) noexcept {
  const KindCounters& counter = counters()[static_cast<std::size_t>(kind)];
  counter.calls.add();
  counter.bytes.add(bytes);
}

void copy_payload(void* to, const void* from, std::size_t bytes, CopyKind kind) noexcept {
  if (bytes >= kStreamedFrom) {
    copy_streamed(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
  } else if (bytes != 0) {
    std::memcpy(to, from, bytes);
  }
  count_copy(bytes, kind);
}

void copy_strided(void* to, const void* from, const std::int64_t* shape,
                  const std::int64_t* strides_bytes, std::size_t rank,
                  std::size_t element_bytes) noexcept {
  auto* begin = static_cast<std::byte*>(to);
  bool empty = false;
  for (std::size_t axis = 0; axis < rank; ++axis) empty |= shape[axis] == 0;
  // What is packed at the inner end is one larger element.
  while (!empty && rank > 0 &&
         (shape[rank - 1] == 1 ||
          strides_bytes[rank - 1] == static_cast<std::int64_t>(element_bytes))) {
    element_bytes *= static_cast<std::size_t>(shape[--rank]);
  }
  std::byte* end = empty ? begin
                         : gather(begin, static_cast<const std::byte*>(from), shape, strides_bytes,
                                  rank, element_bytes);
  count_copy(static_cast<std::size_t>(end - begin), CopyKind::Host);
}

CopyCounts copy_counts() noexcept {
  CopyCounts counts;
  for (std::size_t kind = 0; kind < kCopyKinds; ++kind) {
    counts.calls[kind] = counters()[kind].calls.value();
    counts.bytes[kind] = counters()[kind].bytes.value();
  }
  return counts;
}

}  // namespace tensorferry
