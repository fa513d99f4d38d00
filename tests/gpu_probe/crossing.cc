#include "crossing.h"

#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/probe.h>

namespace tensorferry::gpu_probe {
namespace {

constexpr std::uint64_t kOurs = 1, kTheirs = 2;

// The rest of "map": the block is read, and overwritten.
Result<std::uint64_t> read_and_write(const Gpu& gpu, const cuda::Chunk& chunk) {
  auto seen = gpu.read(chunk.base(), kBlock);
  if (!seen) return std::unexpected(seen.error());
  if (auto put = gpu.write(chunk.base(), block(kTheirs)); !put) return std::unexpected(put.error());
  return cuda::checksum(*seen);
}

Result<void> record_theirs(const Gpu& gpu, const cuda::IpcHandle& handle) {
  auto events = cuda::PeerEvents::open(gpu.context(), std::span(&handle, 1));
  if (!events) return std::unexpected(events.error());
  if (auto put = cuda::record(*(*events)->at(0), gpu.stream()); !put) return put;
  return gpu.finish();
}

Result<void> memory_crosses(const Gpu& gpu, const Helper& helper) {
  auto chunk = cuda::Chunk::create(gpu.context(), kChunk, cuda::ShareMode::Vmm);
  if (!chunk) return std::unexpected(chunk.error());
  if (auto put = gpu.write((*chunk)->base(), block(kOurs)); !put) return put;
  auto handle = (*chunk)->export_handle();
  if (!handle) return std::unexpected(handle.error());
  auto answer = helper.ask({.numbers = {(*chunk)->bytes()}}, std::get<UniqueFd>(*handle).get());
  if (!answer) return std::unexpected(answer.error());
  if (answer->numbers[0] != block_checksum(kOurs))
    return failure(ErrorCode::Internal, "the other process saw other bytes");
  auto seen = gpu.read((*chunk)->base(), kBlock);
  if (!seen) return std::unexpected(seen.error());
  if (*seen != block(kTheirs))
    return failure(ErrorCode::Internal, "what the other process wrote is not seen here");
  return {};
}

Result<void> event_crosses(const Gpu& gpu, const Helper& helper) {
  auto ring = cuda::EventRing::create(gpu.context(), 1);
  if (!ring) return std::unexpected(ring.error());
  auto handles = (*ring)->export_handles();
  if (!handles) return std::unexpected(handles.error());
  auto answer = helper.ask({.handle = handles->front()});
  if (!answer) return std::unexpected(answer.error());
  auto done = cuda::query((*ring)->at(0));
  if (!done) return std::unexpected(done.error());
  if (!*done) return failure(ErrorCode::Internal, "it is not done here though it is there");
  return {};
}

std::string text_of(const Result<void>& result) { return result ? "" : result.error().message; }

}  // namespace

std::vector<std::byte> block(std::uint64_t seed) {
  std::vector<std::byte> bytes(kBlock);
  cuda::fill_pattern(bytes, seed);
  return bytes;
}

std::uint64_t block_checksum(std::uint64_t seed) { return cuda::checksum(block(seed)); }

Result<Crossing> cross(const Gpu& gpu, const Helper& helper) {
  if (auto ready = helper.link().receive(); !ready) return std::unexpected(ready.error());
  Crossing crossing{.memory = text_of(memory_crosses(gpu, helper)), .event = {}};
  crossing.event = text_of(event_crosses(gpu, helper));
  return crossing;
}

Answer answer_of(const Crossing& crossing) {
  const auto word = [](const std::string& wrong) { return wrong.empty() ? "yes" : "no"; };
  std::string detail = crossing.memory;
  if (!crossing.event.empty()) detail += (detail.empty() ? "" : "; ") + crossing.event;
  if (detail.empty()) detail = "both sides wrote and saw; the event was recorded there, done here";
  return {std::string("memory ") + word(crossing.memory) + ", event " + word(crossing.event),
          detail};
}

Result<void> map_and_answer(const Link& link) {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  if (auto ready = link.send({}); !ready) return ready;
  std::shared_ptr<cuda::Chunk> kept;  // unmapped last
  for (UniqueFd fd;;) {
    auto asked = link.receive(&fd);
    if (!asked) return {};
    Message answer;
    Result<std::uint64_t> result = 0;
    if (fd) {
      auto chunk = cuda::Chunk::open(gpu->context(), std::move(fd), asked->numbers[0]);
      if (chunk) kept = *chunk;
      result = chunk ? read_and_write(*gpu, *kept) : std::unexpected(chunk.error());
    } else if (auto recorded = record_theirs(*gpu, asked->handle); !recorded) {
      result = std::unexpected(recorded.error());
    }
    if (result)
      answer.numbers[0] = *result;
    else
      set_text(answer, result.error().message);
    if (auto sent = link.send(answer); !sent) return sent;
  }
}

}  // namespace tensorferry::gpu_probe
