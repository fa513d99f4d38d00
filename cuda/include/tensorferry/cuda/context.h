// A device's primary context: the one that torch, CuPy and the CUDA runtime use too, so that their
// pointers, streams and events are ours and the other way round.
#pragma once

#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <memory>
#include <optional>
#include <utility>

namespace tensorferry::cuda {

// True if some part of this process has made the device's primary context already. Makes none.
Result<bool> primary_context_active(const Device& device);

// The first device that something in this process has made a primary context of; nothing where none
// is. Neither loads nor initialises a driver: for those who must not be the first to use one.
std::optional<int> device_in_use() noexcept;

// Holds the primary context; the last holder of it lets it go. Immutable; any thread.
class PrimaryContext {
 public:
  // The process's hold on the device's context, made when nobody holds it (hundreds of MiB of
  // device memory and up to a second, unless something else in the process has made it already).
  // Not current anywhere by this. Errors: gpu_oom(device), gpu_driver.
  static Result<std::shared_ptr<const PrimaryContext>> retain(const Device& device);

  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  const Device& device() const noexcept { return device_; }
  ContextHandle get() const noexcept { return handle_; }

 private:
  PrimaryContext(Device device, ContextHandle handle) noexcept : device_(device), handle_(handle) {}
  Device device_;
  ContextHandle handle_;
};

using ContextPtr = std::shared_ptr<const PrimaryContext>;

// The context is current on this thread while the guard lives, and what was current before is so
// again afterwards. For one scope of one thread. Some 100 ns.
class [[nodiscard]] ContextGuard {
 public:
  static Result<ContextGuard> enter(const PrimaryContext& context);
  ContextGuard(ContextGuard&& other) noexcept : entered_(std::exchange(other.entered_, false)) {}
  ContextGuard& operator=(ContextGuard&&) = delete;
  ~ContextGuard();

 private:
  ContextGuard() = default;
  bool entered_ = true;
};

// While it lives, this thread's calls neither disturb nor are refused because of a graph that
// another thread captures. For threads of our own, and around slow calls of ours on others'.
// Does nothing where there is no driver.
class [[nodiscard]] RelaxedCapture {
 public:
  RelaxedCapture() noexcept;
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  int before_;  // the mode to go back to; -1: none
};

}  // namespace tensorferry::cuda
