// What does a record cost in the ring, and what does handing one to another thread and back cost?
#include <benchmark/benchmark.h>
#include <tensorferry/transport/ring.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

namespace tensorferry {
namespace {

constexpr std::size_t kCapacity = 1 << 20;

struct Ring {
  std::unique_ptr<std::byte, decltype(&std::free)> memory{
      static_cast<std::byte*>(std::aligned_alloc(4096, 4096 + kCapacity)), &std::free};
  RingWriter writer;
  RingReader reader;
  Ring() : writer(cleared(memory.get()), kCapacity), reader(memory.get(), kCapacity) {}

  static std::byte* cleared(std::byte* bytes) {
    std::memset(bytes, 0, 4096 + kCapacity);
    return bytes;
  }
  void put(std::size_t bytes) {
    auto room = writer.claim(bytes);
    std::memset((*room)->data(), 1, bytes);
    writer.commit(protocol::RecordKind::User, bytes, false, Urgency::Lazy);
  }
  bool take() {
    auto record = reader.peek();
    if (!record || !*record) return false;
    benchmark::DoNotOptimize((*record)->body.data());
    reader.consume();
    return true;
  }
};

// Claim, fill, commit, peek, consume in one thread: the instructions, without another CPU's cache.
void write_and_read(benchmark::State& state) {
  Ring ring;
  const auto bytes = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    ring.put(bytes);
    if (!ring.take()) state.SkipWithError("a record was lost");
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
}
BENCHMARK(write_and_read)->Arg(64)->Arg(1024)->Arg(64 << 10);

// To another thread and back, both waiting as a stub and its caller do.
void hand_over_and_back(benchmark::State& state) {
  Ring there, back;
  std::atomic<bool> stop{false};
  std::thread echo([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      if (there.take()) {
        back.put(64);
      } else {
        there.reader.wait({});
      }
    }
  });
  for (auto _ : state) {
    there.put(64);
    while (!back.take()) back.reader.wait({});
  }
  stop = true;
  there.reader.wake();
  echo.join();
}
BENCHMARK(hand_over_and_back)->UseRealTime();

}  // namespace
}  // namespace tensorferry
