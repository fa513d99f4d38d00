#include "device_place.h"

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/gpu_error.h>

#include <atomic>
#include <cstring>
#include <string>

namespace tensorferry::cuda {
namespace {

// What an end made for its peer to record: looked at by the poller, under a number of their own.
class OwnEvents final : public DeviceEvents {
 public:
  OwnEvents(std::unique_ptr<EventRing> ring, CompletionPoller& poller)
      : ring_(std::move(ring)), poller_(poller) {}

  Result<std::vector<std::string>> handles() const override {
    std::vector<std::string> texts;
    if (!ring_) return texts;
    auto exported = ring_->export_handles();
    if (!exported) return std::unexpected(exported.error());
    for (const IpcHandle& handle : *exported) texts.emplace_back(as_text(handle));
    return texts;
  }
  std::size_t size() const noexcept override { return ring_ ? ring_->size() : 0; }
  void watch(std::uint32_t slot, DeviceDone done) override {
    poller_.watch(ring_->at(slot), number_, std::move(done));
  }
  void cancel(const Error& why) override { poller_.cancel(number_, why); }

 private:
  static std::uint64_t next_number() noexcept {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }

  const std::unique_ptr<EventRing> ring_;
  CompletionPoller& poller_;
  const std::uint64_t number_ = next_number();
};

class OpenedEvents final : public PeerDeviceEvents {
 public:
  explicit OpenedEvents(std::unique_ptr<PeerEvents> events) : events_(std::move(events)) {}

  std::size_t size() const noexcept override { return events_->size(); }
  Result<void> record(std::uint32_t slot, DeviceStream stream) override {
    const EventHandle event = events_->at(slot).value();
    auto guard = ContextGuard::enter(*events_->context());
    if (!guard) return std::unexpected(guard.error());
    return cuda::record(event, stream);
  }

 private:
  const std::unique_ptr<PeerEvents> events_;
};

bool is_being_captured(const PrimaryContext& context, StreamHandle stream) {
  auto guard = ContextGuard::enter(context);
  return guard && is_capturing(stream).value_or(false);
}

}  // namespace

std::string_view GpuPlace::uuid() const noexcept {
  const auto& bytes = device().uuid.bytes;
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// ----------------------------------------------------------------------------------------- memory
Result<std::shared_ptr<Segment>> GpuPlace::make_segment(SegmentId id, std::size_t bytes) {
  auto chunk = Chunk::create(context(), bytes, rung_.mode);
  if (!chunk) return std::unexpected(chunk.error());
  return as_segment(id, std::move(*chunk));
}

Result<DeviceHandle> GpuPlace::export_segment(const Segment& segment) {
  auto handle = static_cast<const Chunk*>(segment.keeper().get())->export_handle();
  if (!handle) return std::unexpected(handle.error());
  if (auto* fd = std::get_if<UniqueFd>(&*handle)) return DeviceHandle{std::move(*fd), {}};
  return DeviceHandle{{}, std::string(as_text(std::get<IpcHandle>(*handle)))};
}

Result<std::shared_ptr<Segment>> GpuPlace::open_segment(SegmentId id, DeviceHandle handle,
                                                        std::size_t bytes) {
  ChunkHandle opened = std::move(handle.fd);
  if (!handle.bytes.empty()) {
    IpcHandle legacy;
    expects(handle.bytes.size() == legacy.size(), "a legacy handle has its size");
    std::memcpy(legacy.data(), handle.bytes.data(), legacy.size());
    opened = legacy;
  }
  auto chunk = Chunk::open(context(), std::move(opened), bytes);
  if (!chunk) return std::unexpected(chunk.error());
  return as_segment(id, std::move(*chunk));
}

// ----------------------------------------------------------------------------------------- events
Result<std::shared_ptr<DeviceEvents>> GpuPlace::make_events(std::size_t count) {
  std::unique_ptr<EventRing> ring;
  if (rung_.events) {
    auto made = EventRing::create(context(), count);
    if (!made) return std::unexpected(made.error());
    ring = std::move(*made);
  }
  return std::make_shared<OwnEvents>(std::move(ring), poller());
}

Result<std::unique_ptr<PeerDeviceEvents>> GpuPlace::open_events(
    std::span<const std::string_view> handles) {
  std::vector<IpcHandle> named(handles.size());
  for (std::size_t i = 0; i < named.size(); ++i) {
    expects(handles[i].size() == named[i].size(), "an event's handle has its size");
    std::memcpy(named[i].data(), handles[i].data(), named[i].size());
  }
  auto events = PeerEvents::open(context(), named);
  if (!events) return std::unexpected(events.error());
  return std::make_unique<OpenedEvents>(std::move(*events));
}

// ------------------------------------------------------------------------------------------- work
Result<DeviceStream> GpuPlace::stream_after(const DeviceStreams& streams) {
  for (DeviceStream other : streams) {
    if (other == stream()) continue;
    if (other && is_being_captured(*context(), other)) {
      return gpu_failure(GpuErrorKind::CaptureActive,
                         "a graph is being captured from the stream that works with the tensor");
    }
    if (auto followed = follow(other ? std::optional(other) : std::nullopt); !followed)
      return std::unexpected(followed.error());
  }
  return stream();
}

Result<void> GpuPlace::copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  return enqueue([&](StreamHandle ours) {
    return copy_async(device_ptr(to), device_ptr(from), bytes, ours, CopyKind::DeviceToDevice);
  });
}

void GpuPlace::when_done(const DeviceStreams& streams, DeviceDone done) {
  DeviceQueue::when_done(streams, std::move(done));
}

}  // namespace tensorferry::cuda
