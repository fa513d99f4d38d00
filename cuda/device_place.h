// One GPU for the ends of connections (transport/device_side.h).
#pragma once

#include <tensorferry/cuda/device_queue.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/transport/device_side.h>

namespace tensorferry::cuda {

class GpuPlace final : public DeviceQueue, public DevicePlace {
 public:
  GpuPlace(const Attempt& rung, Parts parts) : DeviceQueue(std::move(parts)), rung_(rung) {}

  int ordinal() const noexcept override { return device().ordinal; }
  std::string_view uuid() const noexcept override;

  Result<std::shared_ptr<Segment>> make_segment(SegmentId id, std::size_t bytes) override;
  Result<DeviceHandle> export_segment(const Segment& segment) override;
  Result<std::shared_ptr<Segment>> open_segment(SegmentId id, DeviceHandle handle,
                                                std::size_t bytes) override;
  bool peers_close_first() const noexcept override { return rung_.mode == ShareMode::LegacyIpc; }

  Result<std::shared_ptr<DeviceEvents>> make_events(std::size_t count) override;
  Result<std::unique_ptr<PeerDeviceEvents>> open_events(
      std::span<const std::string_view> handles) override;

  Result<DeviceStream> stream_after(const DeviceStreams& streams) override;
  Result<void> copy(std::byte* to, const std::byte* from, std::size_t bytes) override;
  void when_done(const DeviceStreams& streams, DeviceDone done) override;
  Result<void> wait() override { return DeviceQueue::wait(WaitReason::NoEvents); }

 private:
  const Attempt rung_;
};

}  // namespace tensorferry::cuda
