#include "device_endings.h"

#include <algorithm>
#include <utility>

namespace tensorferry::stub {

void DeviceEndings::release_lease(std::uint64_t lease, Streams streams) {
  if (!mark_) return add({lease, true, std::move(streams), {}});
  Lease ending{lease, std::move(streams)};
  if (end(ending)) return;
  std::scoped_lock lock(mutex_);
  leases_.push_back(std::move(ending));
}

void DeviceEndings::release_block(BlockId block, Streams streams) {
  add({block, false, std::move(streams), {}});
}

void DeviceEndings::add(Pending one) {
  std::scoped_lock lock(mutex_);
  if (!end(one)) pending_.push_back(std::move(one));
}

bool DeviceEndings::sweep() {
  std::scoped_lock lock(mutex_);
  std::erase_if(leases_, [this](const Lease& lease) { return end(lease); });
  std::erase_if(pending_, [this](Pending& one) { return end(one); });
  return !leases_.empty() || std::ranges::any_of(pending_, &Pending::is_lease);
}

bool DeviceEndings::end(const Lease& lease) {
  const auto events = mark_(lease.streams);
  if (!events) return false;
  release_(lease.lease, *events);
  return true;
}

bool DeviceEndings::end(Pending& one) {
  std::erase_if(one.streams, [&](UsedStream stream) {
    auto event = local_.mark(stream);
    if (event) one.events.push_back(*event);
    return event.has_value();
  });
  std::erase_if(one.events, [&](const cuda::EventSlot& event) { return local_.is_done(event); });
  if (!one.streams.empty() || !one.events.empty()) return false;
  if (one.is_lease)
    release_(one.number, {});
  else
    arena_.release(one.number);
  return true;
}

}  // namespace tensorferry::stub
