// A hold on device memory that callers work with on streams of their own. What they put there
// counts when the memory is given on, and when it is let go of: neither makes anybody wait.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/server/void_after_fork.h>

#include <memory>
#include <mutex>
#include <vector>

#include "gpu_arenas.h"

namespace tensorferry::server {

// Thread-safe.
class DeviceHold final : public BufferHolder {
 public:
  DeviceHold(std::shared_ptr<Gpu> gpu, std::shared_ptr<BufferHolder> memory)
      : gpu_(std::move(gpu)), memory_(std::move(memory)) {}
  // Lets go of the memory once all that is on those streams now is done.
  ~DeviceHold() override;
  DeviceHold(const DeviceHold&) = delete;
  DeviceHold& operator=(const DeviceHold&) = delete;

  // nullptr for memory of another kind.
  static DeviceHold* of(const Buffer& buffer) noexcept {
    return buffer.is_cpu() ? nullptr : dynamic_cast<DeviceHold*>(buffer.holder().get());
  }
  // Memory of the arena's. A page at least, so that what is handed out is aligned for whatever a
  // framework does with it; none for no bytes.
  static Result<Buffer> allocate(const GpuArena& arena, std::size_t bytes);
  static Buffer wrap(std::shared_ptr<Gpu> gpu, const Buffer& buffer, std::size_t bytes);

  const std::shared_ptr<BufferHolder>& memory() const noexcept { return memory_; }
  Gpu& gpu() const noexcept { return *gpu_; }
  // The stream works with the memory from now on.
  void use_on(cuda::StreamHandle stream);
  // What we put on our stream from now on comes after all that they have put on theirs so far.
  Result<void> follow_users();
  // The same of a buffer; nothing for one without users.
  static Result<void> follow_users_of(const Buffer& buffer) {
    DeviceHold* hold = of(buffer);
    return hold ? hold->follow_users() : Result<void>{};
  }

 private:
  const std::shared_ptr<Gpu> gpu_;
  std::shared_ptr<BufferHolder> memory_;
  std::mutex mutex_;  // guards what follows
  std::vector<cuda::StreamHandle> streams_;
  const Home home_;
};

}  // namespace tensorferry::server
