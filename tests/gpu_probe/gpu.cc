#include "gpu.h"

#include <dlfcn.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/host_wait.h>

#include <cstdio>
#include <thread>

#include "owned_event.h"

namespace tensorferry::gpu_probe {

Result<Gpu> Gpu::open(int ordinal) {
  auto device = cuda::device_by_ordinal(ordinal);
  if (!device) return std::unexpected(device.error());
  auto context = cuda::PrimaryContext::retain(*device);
  if (!context) return std::unexpected(context.error());
  auto guard = cuda::ContextGuard::enter(**context);
  if (!guard) return std::unexpected(guard.error());
  auto stream = cuda::Stream::create(*context);
  if (!stream) return std::unexpected(stream.error());
  return Gpu(*std::move(context), *std::move(guard), *std::move(stream));
}

Result<void> Gpu::finish() const {
  auto event = cuda::make_event(false);
  if (!event) return std::unexpected(event.error());
  if (auto put = cuda::record(event->get(), stream()); !put) return put;
  return cuda::wait_on_host(event->get(), cuda::WaitReason::Probe,
                            Clock::now() + std::chrono::seconds(20));
}

Result<void> Gpu::write(cuda::DevicePtr at, std::span<const std::byte> bytes) const {
  if (auto put = cuda::copy_async(at, cuda::device_ptr(bytes.data()), bytes.size(), stream(),
                                  CopyKind::HostToDevice);
      !put)
    return put;
  return finish();
}

Result<std::vector<std::byte>> Gpu::read(cuda::DevicePtr at, std::size_t bytes) const {
  std::vector<std::byte> seen(bytes);
  if (auto put = cuda::copy_async(cuda::device_ptr(seen.data()), at, bytes, stream(),
                                  CopyKind::DeviceToHost);
      !put)
    return std::unexpected(put.error());
  if (auto done = finish(); !done) return std::unexpected(done.error());
  return seen;
}

void* find_driver_function(const char* name) {
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return library ? ::dlsym(library, name) : nullptr;
}

bool emulated() { return find_driver_function("fakecuda_version") != nullptr; }

std::string name_of(int code) {
  const char* name = nullptr;
  if (cuda::raw_call<"cuGetErrorName">(code, &name) != 0 || !name)
    return "error " + std::to_string(code);
  return name;
}

Result<void> sleep_on(cuda::StreamHandle stream, std::chrono::milliseconds time) {
  static std::chrono::milliseconds length;
  length = time;
  auto* launch =
      driver_function<int(cuda::StreamHandle, void (*)(void*), void*)>("cuLaunchHostFunc");
  if (!launch) return failure(ErrorCode::Unsupported, "the driver lacks cuLaunchHostFunc");
  if (int code = launch(stream, [](void*) { std::this_thread::sleep_for(length); }, nullptr))
    return cuda::driver_failure("cuLaunchHostFunc", code);
  return {};
}

Result<void> write_on(cuda::StreamHandle stream, cuda::DevicePtr at, std::size_t bytes,
                      unsigned rounds) {
  auto* set = driver_function<int(cuda::DevicePtr, unsigned, std::size_t, cuda::StreamHandle)>(
      "cuMemsetD32Async");
  if (!set) return failure(ErrorCode::Unsupported, "the driver lacks cuMemsetD32Async");
  for (unsigned round = 1; round <= rounds; ++round)
    if (int code = set(at, round, bytes / sizeof round, stream))
      return cuda::driver_failure("cuMemsetD32Async", code);
  return {};
}

double microseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

std::string time_text(double microseconds) {
  char text[32];
  const bool small = microseconds < 1000;
  std::snprintf(text, sizeof text, small ? "%.1f µs" : "%.2f ms",
                small ? microseconds : microseconds / 1000);
  return text;
}

}  // namespace tensorferry::gpu_probe
