#include "input_memory.h"

#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/countdown.h>
#include <tensorferry/transport/protocol.h>

#include <utility>

#include "device_copies.h"
#include "device_hold.h"

namespace tensorferry::server {

Result<Buffer> InputMemory::allocate(std::size_t bytes) {
  if (auto here = home_.check(model_); !here) return std::unexpected(here.error());
  if (bytes < protocol::kInlineBelowBytes) return Buffer::ordinary(bytes);
  auto buffer = host_->allocate(bytes);
  if (!buffer) buffer.error().context.model = model_;
  return buffer;
}

Result<Buffer> InputMemory::allocate(std::size_t bytes, const Device& device) {
  if (device.kind != DeviceKind::Cuda) return allocate(bytes);
  if (auto here = home_.check(model_); !here) return std::unexpected(here.error());
  auto arena = gpus_->open(device.id);
  if (!arena) return std::unexpected(in_model(arena.error()));
  auto buffer = DeviceHold::allocate(*arena, bytes);
  return buffer ? std::move(buffer) : std::unexpected(in_model(buffer.error()));
}

Error InputMemory::in_model(Error error) const {
  error.context.model = model_;
  return error;
}

Result<std::uintptr_t> InputMemory::device_stream(int device) {
  auto arena = gpus_->open(device);
  if (!arena) return std::unexpected(in_model(arena.error()));
  return reinterpret_cast<std::uintptr_t>(arena->gpu->stream());
}

Result<void> InputMemory::finish_copies(int device) {
  auto arena = gpus_->open(device);
  if (!arena) return std::unexpected(in_model(arena.error()));
  return arena->gpu->wait(cuda::WaitReason::NoStream);
}

Result<Buffer> InputMemory::copy_in(const DeviceSource& source) {
  auto buffer = allocate(source.bytes, {DeviceKind::Cuda, source.device});
  if (!buffer || source.bytes == 0) return buffer;
  auto arena = gpus_->open(source.device);
  if (!arena) return std::unexpected(arena.error());
  if (auto copied = copy_on_device(*arena->gpu, *buffer, source); !copied)
    return std::unexpected(in_model(copied.error()));
  return buffer;
}

// What lies elsewhere (another model's answer, ordinary memory) crosses by the one counted copy.
Result<void> InputMemory::place(std::vector<Tensor>& inputs, const InputPlacement& placement,
                                std::vector<ArrivingInput>& arriving) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Result<void> placed;
    const InputPlace where = placement.of(inputs[i].name);
    if (inputs[i].data.is_cpu()) {
      placed = place_from_host(inputs[i]);
    } else if (where == InputPlace::ForcedToCpu || where == InputPlace::Cpu) {
      if (where == InputPlace::ForcedToCpu) say_where_inputs_go();
      placed = place_on_host(inputs[i], i, arriving);
    } else {
      placed = place_on_device(inputs[i], i, arriving);
    }
    if (placed) continue;
    undo(arriving, inputs);
    return placed;
  }
  return {};
}

Result<void> InputMemory::place_from_host(Tensor& input) {
  if (input.data.size() < protocol::kInlineBelowBytes || HostBlock::of(input.data, *host_))
    return {};
  auto copy = allocate(input.data.size());
  if (!copy) return std::unexpected(copy.error());
  copy_payload(copy->bytes().data(), input.data.bytes().data(), input.data.size());
  input.data = std::move(*copy);
  return {};
}

Result<void> InputMemory::place_on_device(Tensor& input, std::size_t index,
                                          std::vector<ArrivingInput>& arriving) {
  auto arena = gpus_->open(input.data.device().id);
  if (!arena) return std::unexpected(in_model(arena.error()));
  if (arena->sharing->best().rung == cuda::Rung::NoGpu)
    return place_on_host(input, index, arriving);
  if (input.data.size() == 0) return {};
  if (HostBlock::of(input.data, *arena->blocks)) {
    auto followed = DeviceHold::follow_users_of(input.data);
    return followed ? followed : std::unexpected(in_model(followed.error()));
  }
  auto copy = copy_in(input.data);
  if (!copy) return std::unexpected(copy.error());
  input.data = std::move(*copy);
  return {};
}

// Complete, since answers are; after what its holders have put on streams since.
Result<Buffer> InputMemory::copy_in(const Buffer& on_device) {
  if (auto followed = DeviceHold::follow_users_of(on_device); !followed)
    return std::unexpected(in_model(followed.error()));
  DeviceSource source;
  source.device = on_device.device().id;
  source.address = on_device.bytes().data();
  source.bytes = on_device.size();
  source.keeper = on_device.holder();
  return copy_in(source);
}

void InputMemory::say_where_inputs_go() {
  std::call_once(said_where_inputs_go_, [&] {
    logger_->info(
        model_,
        "a caller's device tensor is copied to CPU memory, as in Triton: parameters { key: "
        "\"FORCE_CPU_ONLY_INPUT_TENSORS\" value: { string_value: \"no\" } } in "
        "config.pbtxt leaves it on its device");
  });
}

// In the arena also where it is small: only there it can be pinned.
Result<void> InputMemory::place_on_host(Tensor& input, std::size_t index,
                                        std::vector<ArrivingInput>& arriving) {
  auto arena = gpus_->open(input.data.device().id);
  if (!arena) return std::unexpected(in_model(arena.error()));
  auto copy = host_->allocate(input.data.size());
  if (!copy) return std::unexpected(in_model(copy.error()));
  auto copied = DeviceHold::follow_users_of(input.data);
  const bool pinned = host_->is_pinned(*copy) && input.data.size() > 0;
  if (copied && !pinned)
    copied = arena->gpu->copy_to_host(copy->bytes(), input.data.bytes().data());
  if (!copied) return std::unexpected(in_model(copied.error()));
  std::swap(input.data, *copy);
  if (pinned) arriving.push_back({index, std::move(*copy), arena->gpu});
  return {};
}

void InputMemory::undo(std::vector<ArrivingInput>& arriving, std::vector<Tensor>& inputs) noexcept {
  for (ArrivingInput& one : arriving) inputs[one.index].data = std::move(one.original);
  arriving.clear();
}

void InputMemory::start(std::vector<ArrivingInput> arriving, const std::vector<Tensor>& inputs,
                        Gpu::Done done) {
  auto all = std::make_shared<Countdown>(arriving.size(), std::move(done));
  for (ArrivingInput& one : arriving) {
    auto* to = const_cast<std::byte*>(inputs[one.index].data.bytes().data());
    const std::span<const std::byte> from = one.original.bytes();
    Gpu& gpu = *one.gpu;
    copy_to_host(gpu, {to, from.size()}, from.data(), true,
                 [all, one = std::move(one)](Result<void> how) { all->part_done(std::move(how)); });
  }
}

}  // namespace tensorferry::server
