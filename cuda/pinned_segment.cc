#include <tensorferry/cuda/pinned_region.h>
#include <tensorferry/cuda/pinned_segment.h>
#include <tensorferry/transport/counters.h>

#include <string_view>
#include <utility>

namespace tensorferry::cuda {
namespace {

Counter counter(std::string_view outcome) {
  return Counters::of_process().add("pinned_segments", {{"outcome", outcome}});
}

}  // namespace

Result<void> pin_segment(Segment& segment, ContextPtr context) {
  static const Counter registered = counter("registered"), refused = counter("refused");
  if (segment.is_pinned()) return {};
  auto region = PinnedRegion::create(std::move(context), {segment.data(), segment.bytes()});
  if (!region) {
    refused.add();
    return std::unexpected(region.error());
  }
  registered.add();
  segment.pin(std::move(*region));
  return {};
}

}  // namespace tensorferry::cuda
