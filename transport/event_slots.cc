#include <tensorferry/transport/event_slots.h>

#include <chrono>
#include <string>
#include <utility>

namespace tensorferry {
namespace {

constexpr std::chrono::milliseconds kTick{1};

}  // namespace

EventSlots::EventSlots(std::size_t count) : slots_(count) {
  for (std::uint32_t slot = 0; slot < count; ++slot) free_.push_back(slot);
}

std::optional<EventSlots::Taken> EventSlots::take_locked() {
  if (free_.empty()) return std::nullopt;
  const std::uint32_t slot = free_.front();
  free_.pop_front();
  slots_[slot].out = true;
  return Taken{slot, ++slots_[slot].generation};
}

std::optional<EventSlots::Taken> EventSlots::take() {
  std::scoped_lock lock(mutex_);
  return take_locked();
}

std::optional<EventSlots::Taken> EventSlots::take(const Deadline& deadline,
                                                  const std::function<void()>& meanwhile) {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (auto taken = take_locked()) return taken;
      if (slots_.empty() || passed(deadline)) return std::nullopt;
      freed_.wait_for(lock, kTick);
      if (auto taken = take_locked()) return taken;
    }
    meanwhile();
  }
}

void EventSlots::free_locked(std::uint32_t slot) {
  slots_[slot].out = false;
  free_.push_back(slot);
  freed_.notify_one();
}

void EventSlots::give_back(Taken taken) {
  std::scoped_lock lock(mutex_);
  free_locked(taken.slot);
}

void EventSlots::keep(Taken taken, Kept kept) {
  std::scoped_lock lock(mutex_);
  slots_[taken.slot].kept = std::move(kept);
}

std::optional<EventSlots::Kept> EventSlots::seen(std::uint32_t slot, std::uint64_t generation) {
  std::scoped_lock lock(mutex_);
  if (slot >= slots_.size() || !slots_[slot].out || slots_[slot].generation != generation)
    return std::nullopt;
  free_locked(slot);
  return std::exchange(slots_[slot].kept, {});
}

Result<void> RecordedSlots::take(const protocol::EventSlot& recorded) {
  std::scoped_lock lock(mutex_);
  if (recorded.slot >= slots_.size()) {
    return failure(ErrorCode::Protocol, "it names event " + std::to_string(recorded.slot) + " of " +
                                            std::to_string(slots_.size()));
  }
  Slot& slot = slots_[recorded.slot];
  if (slot.out || recorded.generation <= slot.generation) {
    return failure(ErrorCode::Protocol, "it names event " + std::to_string(recorded.slot) +
                                            ", which is under way or was another message's");
  }
  slot = {true, recorded.generation};
  return {};
}

void RecordedSlots::give_back(const protocol::EventSlot& recorded) {
  std::scoped_lock lock(mutex_);
  slots_[recorded.slot].out = false;
}

}  // namespace tensorferry
