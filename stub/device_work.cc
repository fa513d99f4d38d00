#include "device_work.h"

#include <algorithm>
#include <utility>

namespace tensorferry::stub {

void DeviceWork::add(DeviceLane& lane, UsedStream stream, std::shared_ptr<void> kept) {
  auto part = std::ranges::find_if(
      parts_, [&](const Part& one) { return one.lane == &lane && one.stream == stream; });
  if (part == parts_.end()) part = parts_.insert(part, {&lane, stream, {}});
  if (kept) part->kept.push_back(std::move(kept));
}

Result<void> DeviceWork::record() {
  while (!parts_.empty()) {
    Part& part = parts_.back();
    part.lane->endings().sweep();
    auto event = part.lane->record(part.stream, part.kept);
    if (!event) return std::unexpected(event.error());
    if (*event) ready_.push_back(**event);
    parts_.pop_back();
  }
  return {};
}

}  // namespace tensorferry::stub
