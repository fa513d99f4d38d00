// The place of a loaded model in its server: what stays when it is loaded anew.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "model_state.h"

namespace tensorferry::server {

// Thread-safe.
class ModelSlot {
 public:
  explicit ModelSlot(std::shared_ptr<ModelState> state)
      : name_(state->name()), state_(std::move(state)) {}

  const std::string& name() const noexcept { return name_; }
  // What serves now; after an unload, what served last.
  std::shared_ptr<ModelState> state() const {
    std::scoped_lock lock(mutex_);
    return state_;
  }
  // Returns what served before.
  std::shared_ptr<ModelState> replace(std::shared_ptr<ModelState> state) {
    std::scoped_lock lock(mutex_);
    return std::exchange(state_, std::move(state));
  }

 private:
  const std::string name_;
  mutable std::mutex mutex_;
  std::shared_ptr<ModelState> state_;
};

}  // namespace tensorferry::server
