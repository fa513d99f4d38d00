// What does it cost to write an Execute message and to read it, with one request and with a batch?
#include <benchmark/benchmark.h>
#include <tensorferry/transport/codec.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tensorferry {
namespace {

// Requests with one input of four bytes each.
struct Batch {
  std::int64_t shape[1] = {4};
  std::byte payload[4] = {};
  protocol::TensorRecord input;
  std::vector<protocol::RequestRecord> requests;
  protocol::Execute execute;

  explicit Batch(std::size_t count) : requests(count) {
    input.name = "IN";
    input.dtype = kUint8;
    input.shape = shape;
    input.memory.bytes = sizeof payload;
    input.inline_bytes = payload;
    for (std::size_t i = 0; i < count; ++i) {
      requests[i].request = i + 1;
      requests[i].inputs = std::span(&input, 1);
    }
    execute.batch = 1;
    execute.requests = requests;
  }
};

void write_execute(benchmark::State& state) {
  const Batch batch(static_cast<std::size_t>(state.range(0)));
  std::vector<std::byte> bytes(encoded_bytes(batch.execute));
  for (auto _ : state) benchmark::DoNotOptimize(encode(batch.execute, bytes));
}
BENCHMARK(write_execute)->Arg(1)->Arg(32);

void read_execute(benchmark::State& state) {
  const Batch batch(static_cast<std::size_t>(state.range(0)));
  std::vector<std::byte> bytes(encoded_bytes(batch.execute));
  encode(batch.execute, bytes);
  Scratch scratch;
  for (auto _ : state) {
    scratch.reset();
    auto message = decode<protocol::Execute>(bytes, scratch);
    if (!message) state.SkipWithError(message.error().message.c_str());
    benchmark::DoNotOptimize(message->requests.data());
  }
}
BENCHMARK(read_execute)->Arg(1)->Arg(32);

}  // namespace
}  // namespace tensorferry
