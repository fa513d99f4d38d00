#include "memory_pins.h"

#include <tensorferry/cuda/pinned_segment.h>

namespace tensorferry::stub {

MemoryPins::Segments MemoryPins::unpinned() const {
  Segments result = mapped_();
  std::erase_if(result, [this](const auto& segment) {
    return segment->is_pinned() || refused_.contains(segment->id());
  });
  return result;
}

void MemoryPins::refresh() {
  if (!wanted_.load(std::memory_order_relaxed)) return;
  const Segments segments = unpinned();
  if (segments.empty()) return;
  if (const auto ordinal = cuda::device_in_use()) pin(segments, *ordinal);
}

void MemoryPins::pin(const Segments& segments, int ordinal) {
  auto device = cuda::device_by_ordinal(ordinal);
  auto context = device ? cuda::PrimaryContext::retain(*device) : std::unexpected(device.error());
  if (!context) return give_up(segments, context.error());
  for (const auto& segment : segments) {
    if (auto pinned = cuda::pin_segment(*segment, *context); !pinned)
      give_up({segment}, pinned.error());
  }
}

void MemoryPins::give_up(const Segments& segments, const Error& why) {
  if (refused_.empty()) complaint_(why.message);
  for (const auto& segment : segments) refused_.insert(segment->id());
}

}  // namespace tensorferry::stub
