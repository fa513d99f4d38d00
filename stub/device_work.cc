#include "device_work.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace tensorferry::stub {

// An event for all of a context stands for each of its streams.
void DeviceWork::add(DeviceLane& lane, UsedStream stream, std::shared_ptr<void> kept) {
  Part part{&lane, stream, {}};
  if (kept) part.kept.push_back(std::move(kept));
  auto is_same = [&](const Part& one) {
    return one.lane == &lane &&
           (one.stream == stream || one.stream == kAnyStream || stream == kAnyStream);
  };
  for (Part& one : parts_) {
    if (!is_same(one)) continue;
    if (one.stream == kAnyStream) part.stream = kAnyStream;
    std::ranges::move(one.kept, std::back_inserter(part.kept));
  }
  std::erase_if(parts_, is_same);
  parts_.push_back(std::move(part));
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
