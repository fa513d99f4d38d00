// Copies of device memory that cross to a model: put on a stream, counted, and waited for by nobody
// but where host memory isn't pinned.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/server/device_source.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <span>

#include "gpu.h"

namespace tensorferry::server {

// What we put on our stream later comes after the copy.
Result<void> copy_on_device(Gpu& gpu, const Buffer& to, const DeviceSource& source);
// As many bytes as `to` has, which is pinned or isn't. `done` is called by the poller once the
// bytes are there (gpu.h), so that nobody waits; where it isn't pinned, or on an error, before this
// returns.
void copy_to_host(Gpu& gpu, std::span<std::byte> to, const std::byte* from, bool pinned,
                  Gpu::Done done);

}  // namespace tensorferry::server
