#include "gpu.h"

#include <vector>

#include "countdown.h"

namespace tensorferry::server {
namespace {

// Marks on streams that somebody still looks at, at a time.
constexpr std::size_t kMarks = 1024;

}  // namespace

Gpu::Gpu(const cuda::Device& device, cuda::ContextPtr context, cuda::Stream stream,
         std::unique_ptr<cuda::EventRing> events, std::shared_ptr<cuda::CompletionPoller> poller)
    : device_(device),
      context_(std::move(context)),
      poller_(std::move(poller)),
      events_(std::move(events)),
      stream_(std::move(stream)) {}

Result<std::shared_ptr<Gpu>> Gpu::open(int ordinal,
                                       std::shared_ptr<cuda::CompletionPoller> poller) {
  auto device = cuda::device_by_ordinal(ordinal);
  if (!device) return std::unexpected(device.error());
  auto context = cuda::PrimaryContext::retain(*device);
  if (!context) return std::unexpected(context.error());
  auto stream = cuda::Stream::create(*context);
  if (!stream) return std::unexpected(stream.error());
  auto events = cuda::EventRing::create(*context, kMarks, cuda::EventUse::OwnProcess);
  if (!events) return std::unexpected(events.error());
  return std::shared_ptr<Gpu>(new Gpu(*device, std::move(*context), std::move(*stream),
                                      std::move(*events), std::move(poller)));
}

// The event stands for all that is on the stream so far; for none, on the device. Under a
// ContextGuard.
Result<cuda::EventSlot> Gpu::mark(std::optional<cuda::StreamHandle> stream) {
  auto slot = events_->take();
  if (!slot) return failure(ErrorCode::Unavailable, "too many waits for the device at a time");
  const cuda::EventHandle event = *events_->event(*slot);
  auto recorded =
      stream ? cuda::record_used(*context_, event, *stream) : cuda::record_all(*context_, event);
  if (!recorded) {
    events_->give_back(*slot);
    return std::unexpected(recorded.error());
  }
  return *slot;
}

// A wait takes what the event stands for when it is put on the stream: the event is free again at
// once.
Result<void> Gpu::follow(std::optional<cuda::StreamHandle> stream) {
  return enqueue([&](cuda::StreamHandle ours) -> Result<void> {
    auto slot = mark(stream);
    if (!slot) return std::unexpected(slot.error());
    auto waits = cuda::wait_event(ours, *events_->event(*slot));
    events_->give_back(*slot);
    return waits;
  });
}

void Gpu::when_done(std::span<const cuda::StreamHandle> streams, Done done) {
  // Each stream by a mark of its own: ours must not wait for those of callers.
  std::vector<cuda::EventSlot> marks;
  auto marked = enqueue([&](cuda::StreamHandle) -> Result<void> {
    for (cuda::StreamHandle stream : streams) {
      auto slot = mark(stream);
      if (!slot) return std::unexpected(slot.error());
      marks.push_back(*slot);
    }
    return {};
  });
  if (marks.empty() || !marked) {
    for (const cuda::EventSlot& slot : marks) events_->give_back(slot);
    return done(std::move(marked));
  }
  auto all = std::make_shared<Countdown>(marks.size(), std::move(done));
  for (const cuda::EventSlot& slot : marks) {
    poller_->watch(*events_->event(slot), 0, [events = events_, slot, all](Result<void> how) {
      events->give_back(slot);
      all->part_done(std::move(how));
    });
  }
}

Result<void> Gpu::wait(cuda::WaitReason reason, cuda::StreamHandle stream) {
  Result<cuda::EventSlot> slot = failure(ErrorCode::Internal, "nothing was marked");
  auto marked = enqueue([&](cuda::StreamHandle) -> Result<void> {
    slot = mark(stream);
    return slot ? Result<void>{} : std::unexpected(slot.error());
  });
  if (!marked) return marked;
  auto waited = cuda::wait_on_host(*events_->event(*slot), reason);
  events_->give_back(*slot);
  return waited;
}

Result<std::shared_ptr<Gpu>> Gpus::open(int ordinal) {
  std::scoped_lock lock(mutex_);
  if (auto it = opened_.find(ordinal); it != opened_.end()) return it->second;
  if (!poller_) poller_ = std::make_shared<cuda::CompletionPoller>();
  auto gpu = Gpu::open(ordinal, poller_);
  if (!gpu) return gpu;
  opened_.emplace(ordinal, *gpu);
  return gpu;
}

}  // namespace tensorferry::server
