// Inputs that the config places on the GPU of the instance: copied when the batch is sent, since
// only then it is known which instance runs it. The request keeps the original, so that a batch
// that goes back can be sent to an instance on another GPU. Everything here is under send_mutex_.
#include <algorithm>

#include "device_hold.h"
#include "stub_link.h"

namespace tensorferry::server {

const Buffer& StubLink::data_of(const Tensor& input) const noexcept {
  if (placed_.empty()) return input.data;
  auto placed = std::ranges::find(placed_, &input, &PlacedInput::input);
  return placed == placed_.end() ? input.data : placed->data;
}

Result<void> StubLink::place_on_gpu(const Batch& batch) {
  if (options_.gpu_inputs.empty()) return {};
  std::vector<const Tensor*> wanted;
  for (const auto& execution : batch) {
    for (const Tensor& input : execution->request().inputs) {
      if (input.data.is_cpu() &&
          std::ranges::find(options_.gpu_inputs, input.name) != options_.gpu_inputs.end())
        wanted.push_back(&input);
    }
  }
  if (wanted.empty()) return {};
  auto arena = gpus_->open(options_.gpu);
  if (!arena) return std::unexpected(arena.error());
  if (arena->sharing->best().rung == cuda::Rung::NoGpu) return {};
  auto lane = open_lane(options_.gpu);
  if (!lane) return std::unexpected(lane.error());
  for (const Tensor* input : wanted) {
    auto buffer = DeviceHold::allocate((*lane)->gpu_arena(), input->data.size());
    if (!buffer) return std::unexpected(buffer.error());
    placed_.push_back({input, std::move(*buffer)});
  }
  return copy_placed((*lane)->gpu());
}

// Both ends of the copies are held until they are done, whatever becomes of the batch.
Result<void> StubLink::copy_placed(Gpu& gpu) {
  std::vector<std::shared_ptr<BufferHolder>> ends;
  Result<void> copied;
  for (const PlacedInput& placed : placed_) {
    copied =
        gpu.put_to_device(cuda::device_ptr(placed.data.bytes().data()), placed.input->data.bytes());
    if (!copied) break;
    ends.push_back(placed.input->data.holder());
    ends.push_back(placed.data.holder());
  }
  const cuda::StreamHandle stream = gpu.stream();
  gpu.when_done(std::span(&stream, 1), [ends = std::move(ends)](Result<void>) {});
  return copied;
}

}  // namespace tensorferry::server
