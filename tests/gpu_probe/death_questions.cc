#include <tensorferry/cuda/event_ring.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "crossing.h"
#include "owned_event.h"

namespace tensorferry::gpu_probe {
namespace {

using std::chrono::milliseconds;

// The two kinds of work that the recorder dies in.
constexpr std::uint64_t kHostFunction = 0, kDeviceWork = 1;
constexpr milliseconds kSlow{800}, kWatched{2000};

// Enough that a device is at it for a while.
unsigned rounds() { return emulated() ? 20 : 500; }
std::size_t much() { return emulated() ? 1 << 20 : std::size_t{1} << 30; }

std::string state_of(const Result<bool>& done) {
  if (!done) return done.error().message;
  return *done ? "done" : "pending";
}

// What the event says until it is no longer pending.
std::string watch(cuda::EventHandle event) {
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < kWatched) {
    const auto done = cuda::query(event);
    if (!done || *done)
      return state_of(done) + (emulated() ? "" : " after " + time_text(microseconds_since(start)));
    std::this_thread::sleep_for(milliseconds(1));
  }
  return "pending after " + std::to_string(kWatched.count()) + " ms";
}

struct Waiter {
  std::unique_ptr<cuda::EventRing> ring;
  cuda::Event own;  // recorded behind a wait for the ring's
};

// What a host that looks, and a stream that waits, see of one death. What they look at is kept: it
// may hold up whatever ends it.
Result<std::string> death_in(const Gpu& gpu, std::uint64_t kind) {
  auto& waiter = *new Waiter;  // NOLINT(cppcoreguidelines-owning-memory): see above
  auto ring = cuda::EventRing::create(gpu.context(), 1);
  if (!ring) return std::unexpected(ring.error());
  waiter.ring = *std::move(ring);
  auto own = cuda::make_event(false);
  if (!own) return std::unexpected(own.error());
  waiter.own = *std::move(own);
  auto handles = waiter.ring->export_handles();
  if (!handles) return std::unexpected(handles.error());
  auto helper = Helper::start("record");
  if (!helper) return std::unexpected(helper.error());
  if (auto said = helper->ask({.numbers = {kind}, .handle = handles->front()}); !said)
    return std::unexpected(said.error());
  auto& stream = *new cuda::Stream(*cuda::Stream::create(gpu.context()));
  if (auto put = cuda::wait_event(stream.get(), waiter.ring->at(0)); !put)
    return std::unexpected(put.error());
  if (auto put = cuda::record(waiter.own.get(), stream.get()); !put)
    return std::unexpected(put.error());
  const std::string before = state_of(cuda::query(waiter.ring->at(0)));
  helper->kill();
  const std::string looked = watch(waiter.ring->at(0));
  return before + " at the kill; a query: " + looked +
         "; a stream that waits: " + watch(waiter.own.get());
}

}  // namespace

Result<Answer> waiting_for_a_killed_recorder() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto function = death_in(*gpu, kHostFunction);
  if (!function) return std::unexpected(function.error());
  auto work = death_in(*gpu, kDeviceWork);
  if (!work) return std::unexpected(work.error());
  auto again = gpu->finish();
  const bool hangs = (*function + *work).find("pending after") != std::string::npos;
  return Answer{hangs ? "it may wait for ever" : "it ends",
                "Killed in a host function: " + *function + ". Killed in device work: " + *work +
                    ". Other streams here: " + (again ? "work" : again.error().message)};
}

Result<void> record_and_wait_for_death(const Link& link) {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto asked = link.receive();
  if (!asked) return std::unexpected(asked.error());
  auto events = cuda::PeerEvents::open(gpu->context(), std::span(&asked->handle, 1));
  if (!events) return std::unexpected(events.error());
  std::shared_ptr<cuda::Chunk> memory;
  Result<void> put;
  if (asked->numbers[0] == kHostFunction) {
    put = sleep_on(gpu->stream(), kSlow);
  } else {
    auto chunk = cuda::Chunk::create(gpu->context(), much(), cuda::ShareMode::Vmm);
    if (!chunk) return std::unexpected(chunk.error());
    memory = *chunk;
    put = write_on(gpu->stream(), memory->base(), memory->bytes(), rounds());
  }
  if (!put) return put;
  if (put = cuda::record(*(*events)->at(0), gpu->stream()); !put) return put;
  if (put = link.send({}); !put) return put;
  for (;;) ::pause();
}

namespace {

Result<unsigned> last_word(const Gpu& gpu, const cuda::Chunk& chunk) {
  unsigned word = 0;
  auto seen = gpu.read(chunk.base() + chunk.bytes() - sizeof word, sizeof word);
  if (!seen) return std::unexpected(seen.error());
  std::memcpy(&word, seen->data(), sizeof word);
  return word;
}

}  // namespace

Result<Answer> work_of_a_reaped_process() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto chunk = cuda::Chunk::create(gpu->context(), much(), cuda::ShareMode::Vmm);
  if (!chunk) return std::unexpected(chunk.error());
  auto handle = (*chunk)->export_handle();
  if (!handle) return std::unexpected(handle.error());
  auto helper = Helper::start("write");
  if (!helper) return std::unexpected(helper.error());
  auto said = helper->ask({.numbers = {(*chunk)->bytes()}}, std::get<UniqueFd>(*handle).get());
  if (!said) return std::unexpected(said.error());
  const auto killed = std::chrono::steady_clock::now();
  helper->kill();
  const double took = microseconds_since(killed);
  auto first = last_word(*gpu, **chunk);
  if (!first) return std::unexpected(first.error());
  std::this_thread::sleep_for(milliseconds(500));
  auto later = last_word(*gpu, **chunk);
  if (!later) return std::unexpected(later.error());
  const std::string writes = "of " + std::to_string(rounds()) + " writes " +
                             std::to_string(*first) + " were there after waitpid, " +
                             std::to_string(*later) + " half a second later";
  if (*first == rounds()) return Answer{"not seen", writes + ": it was done before the kill"};
  const std::string time = emulated() ? "" : "; waitpid took " + time_text(took);
  return Answer{*first == *later ? "yes" : "no", writes + time};
}

Result<void> write_and_wait_for_death(const Link& link) {
  UniqueFd fd;
  auto asked = link.receive(&fd);
  if (!asked) return std::unexpected(asked.error());
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto chunk = cuda::Chunk::open(gpu->context(), std::move(fd), asked->numbers[0]);
  if (!chunk) return std::unexpected(chunk.error());
  if (auto put = write_on(gpu->stream(), (*chunk)->base(), (*chunk)->bytes(), rounds()); !put)
    return put;
  if (auto sent = link.send({}); !sent) return sent;
  for (;;) ::pause();
}

}  // namespace tensorferry::gpu_probe
