// The part of the conversation that takes tensors of GPUs through host memory, for a stub that
// can't map ours there: an input is copied there before it is lent, an output is copied to its
// device before it is answered.
#include <algorithm>
#include <utility>

#include "device_hold.h"
#include "stub_link.h"

namespace tensorferry::server {

// Under send_mutex_.
Result<void> StubLink::stage_input(DeviceLane& lane, const Tensor& input, ReadyEvents& ready) {
  const Buffer& data = data_of(input);
  const std::size_t bytes = data.size();
  Result<Buffer> room =
      bytes < protocol::kInlineBelowBytes ? Buffer::ordinary(bytes) : host_->allocate(bytes);
  if (!room) return std::unexpected(room.error());
  Buffer& copy = ready.staged.emplace_back(&input, std::move(*room)).second;
  if (std::ranges::find(ready.staging, lane.gpu_ptr()) == ready.staging.end())
    ready.staging.push_back(lane.gpu_ptr());
  return lane.gpu().put_to_host(copy.bytes(), data.bytes().data());
}

// It is the CPU that reads them.
Result<void> StubLink::await_staging(const ReadyEvents& ready) {
  Result<void> all;
  for (const auto& gpu : ready.staging) {
    if (auto done = gpu->wait(cuda::WaitReason::Staging); all) all = done;
  }
  return all;
}

// Moves what the stub has left in host memory to its device. The answer is handed out once an event
// of ours says that it is there; until then `staged` has what is read.
Result<void> StubLink::unstage(const protocol::ResponseRecord& record, Response& response,
                               std::vector<Buffer>& staged) {
  std::vector<std::shared_ptr<DeviceLane>> lanes;
  Result<void> copied;
  for (std::size_t i = 0; copied && i < record.outputs.size(); ++i) {
    Buffer& data = response.outputs[i].data;
    if (record.outputs[i].device.kind != DeviceKind::Cuda || !data.is_cpu() || data.size() == 0)
      continue;
    auto lane = find_lane(record.outputs[i].device);
    auto room = DeviceHold::allocate(lane->gpu_arena(), data.size());
    copied = room ? lane->gpu().put_to_device(cuda::device_ptr(room->bytes().data()), data.bytes())
                  : std::unexpected(room.error());
    if (!copied) break;
    staged.push_back(std::exchange(data, std::move(*room)));
    if (std::ranges::find(lanes, lane) == lanes.end()) lanes.push_back(std::move(lane));
  }
  for (const auto& lane : lanes) {
    auto done = copied ? await_unstaged(lane) : lane->gpu().wait(cuda::WaitReason::Staging);
    if (copied) copied = done;
  }
  return copied;
}

Result<void> StubLink::await_unstaged(const std::shared_ptr<DeviceLane>& lane) {
  auto recorded = lane->record_ready();
  if (!recorded) return std::unexpected(recorded.error());
  if (!*recorded) return lane->gpu().wait(cuda::WaitReason::Staging);
  awaited_.push_back({lane, **recorded, true});
  return {};
}

}  // namespace tensorferry::server
