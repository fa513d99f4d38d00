// One device as the probe uses it, and the driver's functions that the library has no need of.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/stream.h>

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "driver_call.h"

namespace tensorferry::gpu_probe {

// The context stays current on the thread that made it. Not thread-safe.
class Gpu {
 public:
  static Result<Gpu> open(int ordinal = 0);

  const cuda::ContextPtr& context() const noexcept { return context_; }
  cuda::StreamHandle stream() const noexcept { return stream_.get(); }
  const cuda::Stream& owned_stream() const noexcept { return stream_; }

  // They wait until it is done; DeadlineExceeded after some seconds.
  Result<void> finish() const;
  Result<void> write(cuda::DevicePtr at, std::span<const std::byte> bytes) const;
  Result<std::vector<std::byte>> read(cuda::DevicePtr at, std::size_t bytes) const;

 private:
  Gpu(cuda::ContextPtr context, cuda::ContextGuard guard, cuda::Stream stream) noexcept
      : context_(std::move(context)), guard_(std::move(guard)), stream_(std::move(stream)) {}
  cuda::ContextPtr context_;
  cuda::ContextGuard guard_;
  cuda::Stream stream_;
};

// True on tests/fake_cuda: what is measured there means nothing.
bool emulated();
// A function of the driver by its exact name; nullptr where it lacks it.
void* find_driver_function(const char* name);
template <class Signature>
Signature* driver_function(const char* name) {
  return reinterpret_cast<Signature*>(find_driver_function(name));
}
// "CUDA_SUCCESS", "CUDA_ERROR_...".
std::string name_of(int code);

// Puts work on the stream that takes a while: a function of this process that sleeps, or writes on
// the device, `rounds` of them, the last of which leaves `rounds` in each word.
Result<void> sleep_on(cuda::StreamHandle stream, std::chrono::milliseconds time);
Result<void> write_on(cuda::StreamHandle stream, cuda::DevicePtr at, std::size_t bytes,
                      unsigned rounds);

double microseconds_since(std::chrono::steady_clock::time_point start);
// "12.3 µs", "1.20 ms".
std::string time_text(double microseconds);

}  // namespace tensorferry::gpu_probe
