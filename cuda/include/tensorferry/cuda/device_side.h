// GPUs for the ends of a connection (transport/endpoint.h), and copies into and out of the device
// memory that they hand out, for programs without CUDA of their own.
//
//   EndpointOptions options;
//   options.devices = cuda::device_side();
//   auto memory = end->allocate_on(0, bytes);
//   cuda::copy_from_host(*memory, values);      // or anything on any stream, and
//   memory->use_on(it)
#pragma once

#include <tensorferry/cuda/device_queue.h>
#include <tensorferry/transport/device_side.h>
#include <tensorferry/transport/endpoint.h>

#include <cstddef>
#include <memory>
#include <span>

namespace tensorferry::cuda {

// The process's. Loads no driver before the first device tensor comes or is asked for.
std::shared_ptr<DeviceSide> device_side();

// Puts the copy on a stream and returns. `memory` is device memory that an end of this process
// handed out. Errors: InvalidArgument for sizes that differ; gpu_...
Result<void> copy_from_host(SharedBytes& memory, std::span<const std::byte> from);
Result<void> copy_in(SharedBytes& memory, const ForeignMemory& from);
// The same after what the memory's streams are at work on; waits for it, counted as a wait for a
// host array.
Result<void> copy_to_host(std::span<std::byte> to, SharedBytes& memory);
// The stream that they use, for others to make it wait for what they have.
Result<StreamHandle> stream_on(int ordinal);
// Waits on this thread until that stream is done; counted as a wait for who names no stream.
Result<void> finish(int ordinal);

}  // namespace tensorferry::cuda
