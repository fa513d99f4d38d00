#include <tensorferry/cuda/event_ring.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "driver_call.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

enum class SlotState : std::uint8_t { Free, Taken, Retired };

struct Slot {
  Event ready, done, consumed;
  std::uint32_t generation = 0;
  SlotState state = SlotState::Free;
};

Result<Slot> make_slot() {
  Slot slot;
  for (Event* event : {&slot.ready, &slot.done, &slot.consumed}) {
    auto made = make_event(true);
    if (!made) return std::unexpected(made.error());
    *event = std::move(*made);
  }
  return slot;
}

Result<SlotHandles> export_slot(std::uint32_t index, const Slot& slot) {
  SlotHandles handles{.index = index, .ready = {}, .done = {}, .consumed = {}};
  for (auto [event, handle] :
       {std::pair(&slot.ready, &handles.ready), std::pair(&slot.done, &handles.done),
        std::pair(&slot.consumed, &handles.consumed)}) {
    if (auto exported = call<"cuIpcGetEventHandle">(handle, event->get()); !exported)
      return std::unexpected(exported.error());
  }
  return handles;
}

}  // namespace

struct EventRing::Impl {
  ContextPtr context;
  std::size_t wanted = 0;

  mutable std::mutex mutex;  // guards what follows; slots are only added
  std::deque<Slot> slots;
  std::deque<std::uint32_t> free;  // the one that was free longest is taken first
  std::size_t retired = 0;

  // Until as many as wanted are not retired. The context is current.
  Result<void> fill() {
    while (slots.size() - retired < wanted) {
      auto slot = make_slot();
      if (!slot) return std::unexpected(slot.error());
      free.push_back(static_cast<std::uint32_t>(slots.size()));
      slots.push_back(std::move(*slot));
    }
    return {};
  }
  // The slot, if it is taken for that use.
  Slot* taken(EventSlot use) {
    if (use.index >= slots.size()) return nullptr;
    Slot& slot = slots[use.index];
    return slot.state == SlotState::Taken && slot.generation == use.generation ? &slot : nullptr;
  }
  void retire(Slot& slot) {
    slot.state = SlotState::Retired;
    ++retired;
  }
};

EventRing::EventRing(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

EventRing::~EventRing() {
  const RelaxedCapture relaxed;
  const auto guard = ContextGuard::enter(*impl_->context);
  impl_->slots.clear();
}

Result<std::unique_ptr<EventRing>> EventRing::create(ContextPtr context, std::size_t slots) {
  auto impl = std::make_unique<Impl>();
  impl->context = std::move(context);
  impl->wanted = slots;
  std::unique_ptr<EventRing> ring(new EventRing(std::move(impl)));
  if (auto filled = ring->replenish(); !filled) return std::unexpected(filled.error());
  return ring;
}

Result<void> EventRing::replenish() {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*impl_->context);
  if (!guard) return std::unexpected(guard.error());
  std::scoped_lock lock(impl_->mutex);
  return impl_->fill();
}

Result<std::vector<SlotHandles>> EventRing::export_handles() const {
  auto guard = ContextGuard::enter(*impl_->context);
  if (!guard) return std::unexpected(guard.error());
  std::scoped_lock lock(impl_->mutex);
  std::vector<SlotHandles> all;
  for (std::uint32_t index = 0; index < impl_->slots.size(); ++index) {
    const Slot& slot = impl_->slots[index];
    if (slot.state == SlotState::Retired) continue;
    auto handles = export_slot(index, slot);
    if (!handles) return std::unexpected(handles.error());
    all.push_back(*handles);
  }
  return all;
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

std::optional<SlotEvents> EventRing::events(EventSlot use) const {
  std::scoped_lock lock(impl_->mutex);
  const Slot* slot = impl_->taken(use);
  if (!slot) return std::nullopt;
  return SlotEvents{slot->ready.get(), slot->done.get(), slot->consumed.get()};
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
  impl_->retire(*slot);
  return true;
}

std::size_t EventRing::retire_taken() {
  std::scoped_lock lock(impl_->mutex);
  std::size_t count = 0;
  for (Slot& slot : impl_->slots) {
    if (slot.state != SlotState::Taken) continue;
    impl_->retire(slot);
    ++count;
  }
  return count;
}

std::size_t EventRing::available() const noexcept {
  std::scoped_lock lock(impl_->mutex);
  return impl_->free.size();
}

std::size_t EventRing::taken() const noexcept {
  std::scoped_lock lock(impl_->mutex);
  return impl_->slots.size() - impl_->free.size() - impl_->retired;
}

std::size_t EventRing::retired() const noexcept {
  std::scoped_lock lock(impl_->mutex);
  return impl_->retired;
}

const ContextPtr& EventRing::context() const noexcept { return impl_->context; }

}  // namespace tensorferry::cuda
