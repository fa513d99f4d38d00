#include "device_endings.h"

#include <utility>

namespace tensorferry::stub {

void DeviceEndings::release_lease(std::uint64_t lease, Streams streams) {
  Lease ending{lease, std::move(streams)};
  if (end(ending)) return;
  std::scoped_lock lock(mutex_);
  leases_.push_back(std::move(ending));
}

void DeviceEndings::release_block(BlockId block, Streams streams) {
  PendingBlock ending{block, std::move(streams), {}};
  std::scoped_lock lock(mutex_);
  if (!end(ending)) blocks_.push_back(std::move(ending));
}

void DeviceEndings::sweep() {
  std::scoped_lock lock(mutex_);
  std::erase_if(leases_, [this](const Lease& lease) { return end(lease); });
  std::erase_if(blocks_, [this](PendingBlock& block) { return end(block); });
}

bool DeviceEndings::end(const Lease& lease) {
  const auto events = mark_(lease.streams);
  if (!events) return false;
  release_(lease.lease, *events);
  return true;
}

bool DeviceEndings::end(PendingBlock& block) {
  std::erase_if(block.streams, [&](UsedStream stream) {
    auto event = local_.mark(stream);
    if (event) block.events.push_back(*event);
    return event.has_value();
  });
  std::erase_if(block.events, [&](const cuda::EventSlot& event) { return local_.is_done(event); });
  if (!block.streams.empty() || !block.events.empty()) return false;
  arena_.release(block.block);
  return true;
}

}  // namespace tensorferry::stub
