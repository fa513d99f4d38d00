#include "device_copies.h"

namespace tensorferry::server {

Result<void> copy_on_device(Gpu& gpu, const Buffer& to, const DeviceSource& source) {
  auto used =
      gpu.copy_in(cuda::device_ptr(to.bytes().data()),
                  {source.address, source.bytes, source.stream, source.after_all, source.keeper});
  if (!used) return std::unexpected(used.error());
  return source.stream ? gpu.follow(source.stream) : Result<void>{};
}

void copy_to_host(Gpu& gpu, std::span<std::byte> to, const std::byte* from, bool pinned,
                  Gpu::Done done) {
  if (!pinned || to.empty()) return done(gpu.copy_to_host(to, from));
  if (auto put = gpu.put_to_host(to, from); !put) return done(std::move(put));
  const cuda::StreamHandle ours = gpu.stream();
  gpu.when_done(std::span(&ours, 1), std::move(done));
}

}  // namespace tensorferry::server
