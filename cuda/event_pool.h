// Events of this process's own for marks on streams, as many as are looked at at a time.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <mutex>
#include <vector>

#include "owned_event.h"

namespace tensorferry::cuda {

// Thread-safe. It only grows: whoever can't mark what he uses can't know when it may be let go of.
class EventPool {
 public:
  explicit EventPool(ContextPtr context) : context_(std::move(context)) {}
  ~EventPool() {
    const RelaxedCapture relaxed;
    const auto guard = ContextGuard::enter(*context_);
    all_.clear();
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  // With the context current. Errors: the driver's.
  Result<EventHandle> take() {
    std::scoped_lock lock(mutex_);
    if (free_.empty()) {
      const RelaxedCapture relaxed;
      auto made = make_event(false);
      if (!made) return std::unexpected(made.error());
      all_.push_back(std::move(*made));
      free_.reserve(all_.size());  // so that giving back never allocates
      return all_.back().get();
    }
    const EventHandle event = free_.back();
    free_.pop_back();
    return event;
  }
  void give_back(EventHandle event) noexcept {
    std::scoped_lock lock(mutex_);
    free_.push_back(event);
  }

 private:
  const ContextPtr context_;
  std::mutex mutex_;  // guards what follows
  std::vector<Event> all_;
  std::vector<EventHandle> free_;
};

}  // namespace tensorferry::cuda
