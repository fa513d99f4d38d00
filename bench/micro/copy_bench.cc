// The one counted copy beside plain memcpy, from ordinary memory into a warm segment.
#include <benchmark/benchmark.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/segment.h>

#include <cstring>
#include <vector>

namespace tensorferry {
namespace {

template <class Copy>
void copy_into_segment(benchmark::State& state, Copy copy) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const std::vector<std::byte> source(bytes, std::byte{1});
  auto segment = Segment::create(1, bytes);
  if (!segment) {
    state.SkipWithError(segment.error().message.c_str());
    return;
  }
  for (auto _ : state) copy((*segment)->data(), source.data(), bytes);
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void copy_payload(benchmark::State& state) {
  copy_into_segment(state, [](void* to, const void* from, std::size_t bytes) {
    tensorferry::copy_payload(to, from, bytes);
  });
}
void plain_memcpy(benchmark::State& state) {
  copy_into_segment(state, [](void* to, const void* from, std::size_t bytes) {
    benchmark::DoNotOptimize(std::memcpy(to, from, bytes));
  });
}
BENCHMARK(copy_payload)->Arg(64 << 10)->Arg(1 << 20)->Arg(16 << 20)->Arg(64 << 20);
BENCHMARK(plain_memcpy)->Arg(64 << 10)->Arg(1 << 20)->Arg(16 << 20)->Arg(64 << 20);

}  // namespace
}  // namespace tensorferry
