#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/probe.h>
#include <tensorferry/cuda/stream.h>

#include <cstdio>
#include <functional>
#include <optional>

#include "fake_driver.h"
#include "peer_socket.h"

namespace tensorferry::cuda {
namespace {

struct State {
  ContextPtr context;
  std::optional<Stream> stream;
  std::shared_ptr<Chunk> chunk, second;
  std::vector<IpcHandle> handles;
  std::unique_ptr<PeerEvents> events;

  DevicePtr at(std::uint64_t offset) const { return chunk->base() + offset; }
  // Two events in a row: ready, done.
  std::optional<ProbeEvents> slot(std::uint64_t index) const {
    if (index == kNoSlot) return std::nullopt;
    const auto first = static_cast<std::uint32_t>(2 * index);
    return ProbeEvents{events->at(first).value(), events->at(first + 1).value()};
  }
};

ChunkHandle handle_of(const PeerFrame& order, UniqueFd fd) {
  if (order.numbers[0] == static_cast<std::uint64_t>(ShareMode::Vmm)) return fd;
  return order.handles[0];
}

Result<void> open(State& state, const PeerFrame& order, UniqueFd fd,
                  std::shared_ptr<Chunk>& chunk) {
  auto opened = Chunk::open(state.context, handle_of(order, std::move(fd)), order.numbers[1]);
  if (!opened) return std::unexpected(opened.error());
  chunk = *opened;
  return {};
}

Result<void> fill(State& state, const PeerFrame& order) {
  const auto bytes = pattern(order.numbers[1], order.numbers[2]);
  auto guard = ContextGuard::enter(*state.context);
  const auto slot = state.slot(order.numbers[3]);
  if (slot) {
    if (auto waits = wait_event(state.stream->get(), slot->ready); !waits) return waits;
  }
  if (auto put = copy_async(state.at(order.numbers[0]), device_ptr(bytes.data()), bytes.size(),
                            state.stream->get(), CopyKind::HostToDevice);
      !put)
    return put;
  if (slot) return record(slot->done, state.stream->get());
  finish(*state.stream);
  return {};
}

Result<void> copy_within(State& state, const PeerFrame& order) {
  auto guard = ContextGuard::enter(*state.context);
  const auto slot = state.slot(order.numbers[3]).value();
  if (auto waits = wait_event(state.stream->get(), slot.ready); !waits) return waits;
  if (auto put = copy_async(state.at(order.numbers[1]), state.at(order.numbers[0]),
                            order.numbers[2], state.stream->get(), CopyKind::DeviceToDevice);
      !put)
    return put;
  return record(slot.done, state.stream->get());
}

Result<std::uint64_t> read_checksum(State& state, const PeerFrame& order) {
  auto guard = ContextGuard::enter(*state.context);
  if (const auto slot = state.slot(order.numbers[2])) {
    if (auto waits = wait_event(state.stream->get(), slot->ready); !waits)
      return std::unexpected(waits.error());
  }
  std::vector<std::byte> bytes(order.numbers[1]);
  if (auto got = copy_async(device_ptr(bytes.data()), state.at(order.numbers[0]), bytes.size(),
                            state.stream->get(), CopyKind::DeviceToHost);
      !got)
    return std::unexpected(got.error());
  finish(*state.stream);
  return checksum(bytes);
}

Result<std::uint64_t> answer(State& state, const PeerFrame& order) {
  auto said =
      answer_probe(*state.stream, {state.at(order.numbers[0]), state.slot(order.numbers[1])},
                   order.numbers[2], Clock::now() + std::chrono::seconds(20));
  if (!said) return std::unexpected(said.error());
  return said->seen;
}

Result<std::uint64_t> number(Result<void> done, std::uint64_t value = 0) {
  if (!done) return std::unexpected(done.error());
  return value;
}

Result<std::uint64_t> obey(State& state, const PeerFrame& order, UniqueFd fd) {
  switch (order.verb) {
    case PeerVerb::OpenChunk:
      return number(open(state, order, std::move(fd), state.chunk));
    case PeerVerb::OpenAgain:
      return number(open(state, order, std::move(fd), state.second));
    case PeerVerb::AddEvent:
      state.handles.push_back(order.handles[0]);
      return 0;
    case PeerVerb::OpenEvents: {
      auto opened = PeerEvents::open(state.context, state.handles);
      if (!opened) return std::unexpected(opened.error());
      state.events = std::move(*opened);
      return state.events->size();
    }
    case PeerVerb::Fill:
      return number(fill(state, order));
    case PeerVerb::Copy:
      return number(copy_within(state, order));
    case PeerVerb::Checksum:
      return read_checksum(state, order);
    case PeerVerb::AnswerProbe:
      return answer(state, order);
    case PeerVerb::Close:
      finish(*state.stream);
      state.events.reset();
      state.handles.clear();
      state.second.reset();
      state.chunk.reset();
      return 0;
    case PeerVerb::Reports: {
      const std::string reports = emulator_reports();
      if (!reports.empty()) return failure(ErrorCode::Internal, reports);
      return 0;
    }
  }
  return failure(ErrorCode::Protocol, "no such order");
}

}  // namespace

int run_peer() {
  State state;
  auto device = device_by_ordinal(0);
  if (!device) return 2;
  auto context = PrimaryContext::retain(*device);
  if (!context) return 3;
  state.context = *context;
  auto stream = Stream::create(state.context);
  if (!stream) return 4;
  state.stream = std::move(*stream);
  PeerFrame order;
  UniqueFd fd;
  while (receive_frame(kPeerSocket, order, fd)) {
    auto done = obey(state, order, std::move(fd));
    const PeerFrame answer =
        done ? PeerFrame{.verb = order.verb, .numbers = {*done}} : failed(done.error().message);
    if (!send_frame(kPeerSocket, answer)) break;
  }
  finish(*state.stream);
  return emulator_reports().empty() ? 0 : 5;
}

}  // namespace tensorferry::cuda
