#include <tensorferry/cuda/event_ring.h>

#include <deque>
#include <mutex>

#include "driver_call.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

enum class SlotState : std::uint8_t { Free, Taken, Retired };

struct Slot {
  Event event;
  std::uint64_t generation = 0;
  SlotState state = SlotState::Free;
};

}  // namespace

struct EventRing::Impl {
  ContextPtr context;
  std::vector<Slot> slots;  // their number and their events are constant

  mutable std::mutex mutex;        // guards what follows, and what changes of the slots
  std::deque<std::uint32_t> free;  // the one that was free longest is taken first

  // The slot, if it is taken for that use.
  Slot* taken(EventSlot use) {
    if (use.index >= slots.size()) return nullptr;
    Slot& slot = slots[use.index];
    return slot.state == SlotState::Taken && slot.generation == use.generation ? &slot : nullptr;
  }
};

EventRing::EventRing(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

EventRing::~EventRing() {
  const RelaxedCapture relaxed;
  const auto guard = ContextGuard::enter(*impl_->context);
  impl_->slots.clear();
}

Result<std::unique_ptr<EventRing>> EventRing::create(ContextPtr context, std::size_t size,
                                                     EventUse use) {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  auto impl = std::make_unique<Impl>();
  impl->context = std::move(context);
  for (std::uint32_t index = 0; index < size; ++index) {
    auto event = make_event(use == EventUse::Interprocess);
    if (!event) return std::unexpected(event.error());
    impl->slots.push_back({std::move(*event), 0, SlotState::Free});
    impl->free.push_back(index);
  }
  return std::unique_ptr<EventRing>(new EventRing(std::move(impl)));
}

Result<std::vector<IpcHandle>> EventRing::export_handles() const {
  auto guard = ContextGuard::enter(*impl_->context);
  if (!guard) return std::unexpected(guard.error());
  std::vector<IpcHandle> handles(impl_->slots.size());
  for (std::size_t i = 0; i < handles.size(); ++i) {
    auto exported = call<"cuIpcGetEventHandle">(&handles[i], impl_->slots[i].event.get());
    if (!exported) return std::unexpected(exported.error());
  }
  return handles;
}

std::optional<EventSlot> EventRing::take() {
  std::scoped_lock lock(impl_->mutex);
  if (impl_->free.empty()) return std::nullopt;
  const std::uint32_t index = impl_->free.front();
  impl_->free.pop_front();
  Slot& slot = impl_->slots[index];
  slot.state = SlotState::Taken;
  return EventSlot{index, ++slot.generation};
}

std::optional<EventHandle> EventRing::event(EventSlot use) const {
  std::scoped_lock lock(impl_->mutex);
  const Slot* slot = impl_->taken(use);
  return slot ? std::optional(slot->event.get()) : std::nullopt;
}

bool EventRing::give_back(EventSlot use) {
  std::scoped_lock lock(impl_->mutex);
  Slot* slot = impl_->taken(use);
  if (!slot) return false;
  slot->state = SlotState::Free;
  impl_->free.push_back(use.index);
  return true;
}

bool EventRing::retire(EventSlot use) {
  std::scoped_lock lock(impl_->mutex);
  Slot* slot = impl_->taken(use);
  if (!slot) return false;
  slot->state = SlotState::Retired;
  return true;
}

EventHandle EventRing::at(std::uint32_t index) const { return impl_->slots.at(index).event.get(); }
std::size_t EventRing::size() const noexcept { return impl_->slots.size(); }

std::size_t EventRing::available() const noexcept {
  std::scoped_lock lock(impl_->mutex);
  return impl_->free.size();
}

const ContextPtr& EventRing::context() const noexcept { return impl_->context; }

}  // namespace tensorferry::cuda
