#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/device_queue.h>
#include <tensorferry/transport/countdown.h>

#include <vector>

namespace tensorferry::cuda {
namespace {

// Marks on streams that somebody still looks at, at a time.
constexpr std::size_t kMarks = 1024;

}  // namespace

Result<DeviceQueue::Parts> DeviceQueue::make(const Device& device,
                                             std::shared_ptr<CompletionPoller> poller) {
  auto context = PrimaryContext::retain(device);
  if (!context) return std::unexpected(context.error());
  auto stream = Stream::create(*context);
  if (!stream) return std::unexpected(stream.error());
  auto events = EventRing::create(*context, kMarks, EventUse::OwnProcess);
  if (!events) return std::unexpected(events.error());
  return Parts{std::move(*context), std::move(*stream), std::move(*events), std::move(poller)};
}

// The event stands for all that is on the stream so far; for none, on the device. Under a
// ContextGuard.
Result<EventSlot> DeviceQueue::mark(std::optional<StreamHandle> stream) {
  auto slot = parts_.events->take();
  if (!slot) return failure(ErrorCode::Unavailable, "too many waits for the device at a time");
  const EventHandle event = *parts_.events->event(*slot);
  auto recorded =
      stream ? record_used(*parts_.context, event, *stream) : record_all(*parts_.context, event);
  if (!recorded) {
    parts_.events->give_back(*slot);
    return std::unexpected(recorded.error());
  }
  return *slot;
}

// A wait takes what the event stands for when it is put on the stream: the event is free again at
// once.
Result<void> DeviceQueue::follow(std::optional<StreamHandle> stream) {
  return enqueue([&](StreamHandle ours) -> Result<void> {
    auto slot = mark(stream);
    if (!slot) return std::unexpected(slot.error());
    auto waits = wait_event(ours, *parts_.events->event(*slot));
    parts_.events->give_back(*slot);
    return waits;
  });
}

void DeviceQueue::when_done(std::span<const StreamHandle> streams, Done done) {
  // Each stream by a mark of its own: ours must not wait for those of callers.
  std::vector<EventSlot> marks;
  auto marked = enqueue([&](StreamHandle) -> Result<void> {
    for (StreamHandle stream : streams) {
      auto slot = mark(stream ? std::optional(stream) : std::nullopt);
      if (!slot) return std::unexpected(slot.error());
      marks.push_back(*slot);
    }
    return {};
  });
  if (marks.empty() || !marked) {
    for (const EventSlot& slot : marks) parts_.events->give_back(slot);
    return done(std::move(marked));
  }
  auto all = std::make_shared<Countdown>(marks.size(), std::move(done));
  for (const EventSlot& slot : marks) {
    parts_.poller->watch(*parts_.events->event(slot), 0,
                         [events = parts_.events, slot, all](Result<void> how) {
                           events->give_back(slot);
                           all->part_done(std::move(how));
                         });
  }
}

Result<void> DeviceQueue::wait(WaitReason reason, StreamHandle stream) {
  Result<EventSlot> slot = failure(ErrorCode::Internal, "nothing was marked");
  auto marked = enqueue([&](StreamHandle) -> Result<void> {
    slot = mark(stream);
    return slot ? Result<void>{} : std::unexpected(slot.error());
  });
  if (!marked) return marked;
  auto waited = wait_on_host(*parts_.events->event(*slot), reason);
  parts_.events->give_back(*slot);
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
