// A Server driven from C++, told what to do by lines on stdin, so that its rounds can be
// interleaved with those of peers that live in Python (from_cpp.py):
//
//   tensorferry_bench_client REPOSITORY PAYLOAD PYTHON     starts the model `identity`
//   < WIDTH COUNT       COUNT requests of 4 bytes, WIDTH of them in flight
//   > SECONDS P50_US P99_US ALLOCATIONS                    latencies from submit to the answer
//   taken;
//                                                          calls of operator new in all
//
// The first line that it prints is the stub's pid. It ends with stdin. Each answer is compared with
// what was sent.
#include <tensorferry/server/server.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "heap_count.h"

namespace tensorferry::bench {
namespace {

using server::Buffer;
using server::Call;
using server::Model;
using server::Request;
using server::Response;
using server::Server;
using std::chrono::steady_clock;

// One request and its place in the window; everything in it is used again.
struct Slot {
  Request request;
  Call call;
  std::uint32_t value = 0;
  steady_clock::time_point begin;
};

Result<void> submit(Model& model, Slot& slot, std::uint32_t value) {
  slot.value = value;
  slot.begin = steady_clock::now();
  slot.request.clear();
  server::Tensor& input = slot.request.add_input();
  input.name = "IN";
  input.dtype = kUint8;
  input.shape.assign(1, sizeof value);
  input.data = Buffer::ordinary(sizeof value);
  std::memcpy(input.data.bytes().data(), &value, sizeof value);
  auto call = model.submit(std::move(slot.request));
  if (!call) return std::unexpected(call.error());
  slot.call = std::move(*call);
  return {};
}

Result<void> finish(Slot& slot, Response& response) {
  slot.call.wait();
  if (auto taken = slot.call.take(response); !taken) return taken;
  const server::Tensor* output = response.find("OUT");
  if (!output || output->data.size() != sizeof slot.value ||
      std::memcmp(output->data.bytes().data(), &slot.value, sizeof slot.value) != 0)
    return failure(ErrorCode::Internal, "the answer is not what was sent");
  response.clear();
  return {};
}

struct Round {
  double seconds = 0;
  std::vector<double> latencies_us;
  std::size_t allocations = 0;
};

// `width` requests are in flight; the oldest is waited for, and the next takes its place.
Result<void> drive(Model& model, std::vector<Slot>& slots, std::size_t width, std::size_t count,
                   Round& round) {
  Response response;
  const std::size_t before = heap_allocations();
  const auto begin = steady_clock::now();
  for (std::size_t i = 0; i < count + width; ++i) {
    Slot& slot = slots[i % width];
    if (i >= width) {
      if (auto done = finish(slot, response); !done) return done;
      round.latencies_us.push_back(
          std::chrono::duration<double, std::micro>(steady_clock::now() - slot.begin).count());
    }
    if (i < count) {
      if (auto sent = submit(model, slot, static_cast<std::uint32_t>(i)); !sent) return sent;
    }
  }
  round.seconds = std::chrono::duration<double>(steady_clock::now() - begin).count();
  round.allocations = heap_allocations() - before;
  return {};
}

double percentile(std::vector<double>& values, double share) {
  auto at =
      values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size()));
  at = std::min(at, values.end() - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

Result<void> serve(Model& model) {
  std::vector<Slot> slots;
  Round round;
  unsigned long width = 0, count = 0;
  while (std::scanf("%lu %lu", &width, &count) == 2 && width > 0 && count >= width) {
    slots.resize(std::max(slots.size(), std::size_t{width}));
    round.latencies_us.clear();
    round.latencies_us.reserve(count);
    if (auto done = drive(model, slots, width, count, round); !done) return done;
    std::printf("%.9f %.3f %.3f %zu\n", round.seconds, percentile(round.latencies_us, 0.5),
                percentile(round.latencies_us, 0.99), round.allocations);
    std::fflush(stdout);
  }
  return {};
}

Result<void> run(const char* repository, const char* payload, const char* python) {
  server::ServerOptions options;
  options.models = std::vector<std::string>{"identity"};
  options.payload = payload;
  options.python = python;
  auto started = Server::start(repository, std::move(options));
  if (!started) return std::unexpected(started.error());
  auto model = (*started)->model("identity");
  if (!model) return std::unexpected(model.error());
  std::printf("%d\n", (*started)->statistics().at(0).instances.at(0).pid);
  std::fflush(stdout);
  return serve(*model);
}

}  // namespace
}  // namespace tensorferry::bench

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s REPOSITORY PAYLOAD PYTHON\n", argv[0]);
    return 2;
  }
  auto done = tensorferry::bench::run(argv[1], argv[2], argv[3]);
  if (!done) std::fprintf(stderr, "%s\n", done.error().describe().c_str());
  return done ? 0 : 1;
}
