// The place of a loaded model in its server: what stays when it is loaded anew.
#pragma once

#include <tensorferry/transport/fork_guard.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "model_state.h"

namespace tensorferry::server {

// Thread-safe, also in a forked child: a handle there must be able to find out that it is void.
class ModelSlot final : private ForkParticipant {
 public:
  explicit ModelSlot(std::shared_ptr<ModelState> state)
      : name_(state->name()),
        state_(std::move(state)),
        fork_registration_(register_fork_participant(*this)) {}
  ModelSlot(const ModelSlot&) = delete;
  ModelSlot& operator=(const ModelSlot&) = delete;

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
  // No other lock is ever taken under this one, so that its place in the order doesn't matter.
  void before_fork() noexcept override { mutex_.lock(); }
  void collect(std::vector<Mapping>&) override {}
  void after_fork_parent() noexcept override { mutex_.unlock(); }
  void after_fork_child() noexcept override { mutex_.unlock(); }

  const std::string name_;
  mutable std::mutex mutex_;
  std::shared_ptr<ModelState> state_;
  std::shared_ptr<void> fork_registration_;  // last: let go of first
};

}  // namespace tensorferry::server
