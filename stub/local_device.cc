#include "local_device.h"

#include <tensorferry/cuda/gpu_error.h>

namespace tensorferry::stub {
namespace {

// Waits and orderings under way at a time, and blocks that wait for their streams.
constexpr std::size_t kEvents = 64;

}  // namespace

Result<std::unique_ptr<LocalDevice>> LocalDevice::open(const cuda::Device& device) {
  auto context = cuda::PrimaryContext::retain(device);
  if (!context) return std::unexpected(context.error());
  auto stream = cuda::Stream::create(*context);
  if (!stream) return std::unexpected(stream.error());
  auto events = cuda::EventRing::create(*context, kEvents, cuda::EventUse::OwnProcess);
  if (!events) return std::unexpected(events.error());
  return std::unique_ptr<LocalDevice>(
      new LocalDevice(std::move(*context), std::move(*stream), std::move(*events)));
}

Result<bool> LocalDevice::is_capturing(UsedStream stream) const {
  if (stream == kAnyStream) return false;
  auto guard = cuda::ContextGuard::enter(*context_);
  if (!guard) return std::unexpected(guard.error());
  return cuda::is_capturing(stream);
}

Result<void> LocalDevice::record(cuda::EventHandle event, UsedStream stream) const {
  auto guard = cuda::ContextGuard::enter(*context_);
  if (!guard) return std::unexpected(guard.error());
  if (stream == kAnyStream) return cuda::record_all(*context_, event);
  if (cuda::is_capturing(stream).value_or(false)) {
    return cuda::gpu_failure(cuda::GpuErrorKind::CaptureActive,
                             "a graph is being captured from the stream that used the tensor");
  }
  return cuda::record_used(*context_, event, stream);
}

Result<cuda::EventSlot> LocalDevice::mark(UsedStream stream) {
  auto slot = events_->take();
  if (!slot)
    return failure(ErrorCode::Unavailable,
                   "all " + std::to_string(kEvents) + " events of this process's own are in use");
  if (auto recorded = record(*events_->event(*slot), stream); !recorded) {
    events_->give_back(*slot);
    return std::unexpected(recorded.error());
  }
  return *slot;
}

bool LocalDevice::is_done(const cuda::EventSlot& event) {
  auto done = cuda::query(*events_->event(event));
  // What a broken context was doing is over, and the process soon is.
  const bool over = !done || *done;
  if (over) events_->give_back(event);
  return over;
}

Result<void> LocalDevice::order(UsedStream first, cuda::StreamHandle then) {
  if (first == then) return {};
  auto slot = mark(first);
  if (!slot) return std::unexpected(slot.error());
  auto guard = cuda::ContextGuard::enter(*context_);
  // It waits for what was recorded now, whatever the event is used for afterwards.
  auto waits = guard ? cuda::wait_event(then, *events_->event(*slot))
                     : Result<void>(std::unexpected(guard.error()));
  events_->give_back(*slot);
  return waits;
}

Result<cuda::StreamHandle> LocalDevice::stream_after(const std::vector<UsedStream>& streams) {
  if (streams.size() == 1 && streams.front() != kAnyStream) return streams.front();
  for (UsedStream used : streams) {
    if (auto ordered = order(used, stream()); !ordered) return std::unexpected(ordered.error());
  }
  return stream();
}

Result<void> LocalDevice::copy(std::byte* to, const DeviceRange& from, cuda::StreamHandle stream,
                               CopyKind kind) {
  auto guard = cuda::ContextGuard::enter(*context_);
  if (!guard) return std::unexpected(guard.error());
  const auto target = cuda::device_ptr(to), source = cuda::device_ptr(from.data);
  return from.gather ? cuda::gather_async(target, source, *from.gather, stream, kind)
                     : cuda::copy_async(target, source, from.bytes, stream, kind);
}

Result<void> LocalDevice::wait(UsedStream stream, cuda::WaitReason reason) {
  auto slot = mark(stream);
  if (!slot) return std::unexpected(slot.error());
  auto done = cuda::wait_on_host(*events_->event(*slot), reason);
  events_->give_back(*slot);
  return done;
}

}  // namespace tensorferry::stub
