// The memory that a model's inputs lie in: what callers fill and give, and where the inputs that
// lie elsewhere are moved to, each by one counted copy.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/server/device_source.h>
#include <tensorferry/server/request.h>
#include <tensorferry/server/void_after_fork.h>
#include <tensorferry/transport/log.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gpu_arenas.h"
#include "host_arena.h"
#include "input_placement.h"

namespace tensorferry::server {

// An input on a GPU that goes to pinned memory of the host arena: the copy is yet to be started.
struct ArrivingInput {
  std::size_t index = 0;  // in its request
  Buffer original;
  std::shared_ptr<Gpu> gpu;
};

// Thread-safe.
class InputMemory {
 public:
  InputMemory(std::string model, std::shared_ptr<HostArena> host, std::shared_ptr<GpuArenas> gpus,
              std::shared_ptr<Logger> logger)
      : model_(std::move(model)),
        host_(std::move(host)),
        gpus_(std::move(gpus)),
        logger_(std::move(logger)) {}

  // As Model's functions of these names.
  Result<Buffer> allocate(std::size_t bytes);
  Result<Buffer> allocate(std::size_t bytes, const Device& device);
  Result<Buffer> copy_in(const DeviceSource& source);
  Result<Buffer> copy_in(const Buffer& on_device);
  Result<std::uintptr_t> device_stream(int device);
  Result<void> finish_copies(int device);

  // Moves the inputs to where this model's stubs find them. One for a GPU that lies in CPU memory
  // goes to the host arena: which instance runs it, and so which GPU it is for, isn't known yet.
  // Those that are left in `arriving` have a place, and are to be copied there by start(), or put
  // back by undo().
  Result<void> place(std::vector<Tensor>& inputs, const InputPlacement& placement,
                     std::vector<ArrivingInput>& arriving);
  // `done` is called once, when all are there or one can't be; no thread waits for that.
  void start(std::vector<ArrivingInput> arriving, const std::vector<Tensor>& inputs,
             Gpu::Done done);
  static void undo(std::vector<ArrivingInput>& arriving, std::vector<Tensor>& inputs) noexcept;

 private:
  Result<void> place_from_host(Tensor& input);
  Result<void> place_on_device(Tensor& input, std::size_t index,
                               std::vector<ArrivingInput>& arriving);
  Result<void> place_on_host(Tensor& input, std::size_t index,
                             std::vector<ArrivingInput>& arriving);
  void say_where_inputs_go();
  Error in_model(Error error) const;

  const std::string model_;
  const std::shared_ptr<HostArena> host_;
  const std::shared_ptr<GpuArenas> gpus_;
  const std::shared_ptr<Logger> logger_;
  std::once_flag said_where_inputs_go_;
  const Home home_;
};

}  // namespace tensorferry::server
