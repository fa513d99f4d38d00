#include "device_copies.h"

#include <tensorferry/cuda/device_copy.h>

namespace tensorferry::server {

Result<void> copy_on_device(Gpu& gpu, const Buffer& to, const DeviceSource& source) {
  cuda::StreamHandle used = nullptr;
  if (source.after_all && !source.stream) {
    if (auto ordered = gpu.follow(std::nullopt); !ordered) return ordered;
  }
  auto copied = gpu.enqueue([&](cuda::StreamHandle ours) {
    used = source.stream.value_or(ours);
    return cuda::copy_async(cuda::device_ptr(to.bytes().data()), cuda::device_ptr(source.address),
                            source.bytes, used, CopyKind::DeviceToDevice);
  });
  if (copied && source.stream) copied = gpu.follow(source.stream);
  if (!copied || !source.keeper) return copied;
  gpu.when_done(std::span(&used, 1), [keeper = source.keeper](Result<void>) {});
  return {};
}

Result<void> bring_to_device(Gpu& gpu, const Buffer& to, std::span<const std::byte> from) {
  return gpu.enqueue([&](cuda::StreamHandle ours) {
    return cuda::copy_async(cuda::device_ptr(to.bytes().data()), cuda::device_ptr(from.data()),
                            from.size(), ours, CopyKind::HostToDevice);
  });
}

Result<void> bring_to_host(Gpu& gpu, std::span<std::byte> to, const std::byte* from) {
  return gpu.enqueue([&](cuda::StreamHandle ours) {
    return cuda::copy_async(cuda::device_ptr(to.data()), cuda::device_ptr(from), to.size(), ours,
                            CopyKind::DeviceToHost);
  });
}

Result<void> copy_to_host(Gpu& gpu, std::span<std::byte> to, const std::byte* from) {
  if (to.empty()) return {};
  auto copied = bring_to_host(gpu, to, from);
  return copied ? gpu.wait(cuda::WaitReason::HostArray) : copied;
}

}  // namespace tensorferry::server
