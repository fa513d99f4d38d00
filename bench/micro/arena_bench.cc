// What does a block cost once the arena is warm, alone and with another thread at it?
#include <benchmark/benchmark.h>
#include <tensorferry/transport/arena.h>

#include <atomic>
#include <memory>

namespace tensorferry {
namespace {

struct Memory {
  std::atomic<SegmentId> next{1};
  Arena arena{ArenaOptions{}, [this](std::size_t bytes) { return Segment::create(next++, bytes); }};
};

void allocate_and_release(benchmark::State& state) {
  static std::unique_ptr<Memory> memory;
  if (state.thread_index() == 0) memory = std::make_unique<Memory>();
  const auto bytes = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    auto block = memory->arena.allocate(bytes);
    if (!block) {
      state.SkipWithError(block.error().message.c_str());
      break;
    }
    benchmark::DoNotOptimize(block->data);
    memory->arena.release(block->id);
  }
  if (state.thread_index() == 0) memory.reset();
}
BENCHMARK(allocate_and_release)->Arg(4 << 10)->Arg(1 << 20)->Arg(64 << 20);
BENCHMARK(allocate_and_release)->Arg(1 << 20)->Threads(2)->UseRealTime();

// Asked by each free() of NumPy: is this address ours?
void owns_an_address(benchmark::State& state) {
  Memory memory;
  auto block = memory.arena.allocate(1 << 20);
  const int outside = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(memory.arena.owns(block->data));
    benchmark::DoNotOptimize(memory.arena.owns(&outside));
  }
  memory.arena.release(block->id);
}
BENCHMARK(owns_an_address);

}  // namespace
}  // namespace tensorferry
