#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/device_queue.h>
#include <tensorferry/transport/countdown.h>

#include <vector>

#include "event_pool.h"

namespace tensorferry::cuda {

Result<DeviceQueue::Parts> DeviceQueue::make(const Device& device,
                                             std::shared_ptr<CompletionPoller> poller) {
  auto context = PrimaryContext::retain(device);
  if (!context) return std::unexpected(context.error());
  auto stream = Stream::create(*context);
  if (!stream) return std::unexpected(stream.error());
  auto marks = std::make_shared<EventPool>(*context);
  return Parts{std::move(*context), std::move(*stream), std::move(marks), std::move(poller)};
}

// The event stands for all that is on the stream so far; for none, on the device. Under a
// ContextGuard.
Result<EventHandle> DeviceQueue::mark(std::optional<StreamHandle> stream) {
  auto event = parts_.marks->take();
  if (!event) return event;
  auto recorded =
      stream ? record_used(*parts_.context, *event, *stream) : record_all(*parts_.context, *event);
  if (recorded) return event;
  parts_.marks->give_back(*event);
  return std::unexpected(recorded.error());
}

// A wait takes what the event stands for when it is put on the stream: the event is free again at
// once.
Result<void> DeviceQueue::follow(std::optional<StreamHandle> stream) {
  return enqueue([&](StreamHandle ours) -> Result<void> {
    auto event = mark(stream);
    if (!event) return std::unexpected(event.error());
    auto waits = wait_event(ours, *event);
    parts_.marks->give_back(*event);
    return waits;
  });
}

void DeviceQueue::when_done(std::span<const StreamHandle> streams, Done done) {
  // Each stream by a mark of its own: ours must not wait for those of callers.
  std::vector<EventHandle> marks;
  auto marked = enqueue([&](StreamHandle) -> Result<void> {
    for (StreamHandle stream : streams) {
      auto event = mark(stream ? std::optional(stream) : std::nullopt);
      if (!event) return std::unexpected(event.error());
      marks.push_back(*event);
    }
    return {};
  });
  if (marks.empty() || !marked) {
    for (EventHandle event : marks) parts_.marks->give_back(event);
    return done(std::move(marked));
  }
  auto all = std::make_shared<Countdown>(marks.size(), std::move(done));
  for (EventHandle event : marks) {
    parts_.poller->watch(event, 0, [pool = parts_.marks, event, all](Result<void> how) {
      pool->give_back(event);
      all->part_done(std::move(how));
    });
  }
}

Result<void> DeviceQueue::wait(WaitReason reason, StreamHandle stream) {
  Result<EventHandle> event = nullptr;
  auto marked = enqueue([&](StreamHandle) -> Result<void> {
    event = mark(stream);
    return event ? Result<void>{} : std::unexpected(event.error());
  });
  if (!marked) return marked;
  auto waited = wait_on_host(*event, reason);
  parts_.marks->give_back(*event);
  return waited;
}

Result<StreamHandle> DeviceQueue::copy_in(DevicePtr to, const ForeignMemory& from) {
  if (from.after_all && !from.stream) {
    if (auto ordered = follow(std::nullopt); !ordered) return std::unexpected(ordered.error());
  }
  const StreamHandle used = from.stream.value_or(stream());
  auto copied = enqueue([&](StreamHandle) {
    return copy_async(to, device_ptr(from.address), from.bytes, used, CopyKind::DeviceToDevice);
  });
  if (!copied) return std::unexpected(copied.error());
  if (from.keeper) when_done(std::span(&used, 1), [keeper = from.keeper](Result<void>) {});
  return used;
}

Result<void> DeviceQueue::put_to_device(DevicePtr to, std::span<const std::byte> from) {
  return enqueue([&](StreamHandle ours) {
    return copy_async(to, device_ptr(from.data()), from.size(), ours, CopyKind::HostToDevice);
  });
}

Result<void> DeviceQueue::put_to_host(std::span<std::byte> to, const std::byte* from) {
  return enqueue([&](StreamHandle ours) {
    return copy_async(device_ptr(to.data()), device_ptr(from), to.size(), ours,
                      CopyKind::DeviceToHost);
  });
}

Result<void> DeviceQueue::copy_to_host(std::span<std::byte> to, const std::byte* from) {
  if (to.empty()) return {};
  auto copied = put_to_host(to, from);
  return copied ? wait(WaitReason::HostArray) : copied;
}

}  // namespace tensorferry::cuda
