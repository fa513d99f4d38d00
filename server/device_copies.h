// Copies of device memory that cross to a model: put on a stream, counted, and waited for by nobody
// but where the CPU is to read the result.
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
// Between host memory and the device, put on our stream: both have to stay until it is done. From
// memory that isn't pinned the driver waits by itself.
Result<void> bring_to_device(Gpu& gpu, const Buffer& to, std::span<const std::byte> from);
Result<void> bring_to_host(Gpu& gpu, std::span<std::byte> to, const std::byte* from);
// As many bytes as `to` has. Waits for the device; counted as a wait for a host array.
Result<void> copy_to_host(Gpu& gpu, std::span<std::byte> to, const std::byte* from);

}  // namespace tensorferry::server
