// Host memory of ours, made known to the driver so that copies from and to it are true DMA.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <memory>
#include <span>

namespace tensorferry::cuda {

// One registration of one mapping, in this process. Any thread. The destructor unregisters: copies
// have to be done by then, and the mapping has to be there still.
class PinnedRegion {
 public:
  // Registers the whole mapping (page-aligned), for all devices. 100 ms and more for large ones,
  // and it may wait for the device: call it from a thread that has time. Errors: AlreadyExists when
  // some of it is registered, gpu_unsupported, gpu_oom(device), gpu_driver.
  static Result<std::unique_ptr<PinnedRegion>> create(ContextPtr context,
                                                      std::span<std::byte> memory);
  ~PinnedRegion();
  PinnedRegion(const PinnedRegion&) = delete;
  PinnedRegion& operator=(const PinnedRegion&) = delete;

  std::span<std::byte> memory() const noexcept { return memory_; }

 private:
  PinnedRegion(ContextPtr context, std::span<std::byte> memory) noexcept
      : context_(std::move(context)), memory_(memory) {}
  ContextPtr context_;
  std::span<std::byte> memory_;
};

}  // namespace tensorferry::cuda
