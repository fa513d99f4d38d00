// What callers do with the device memory of a tensor that they hold.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/transport/error.h>

#include <memory>

struct CUstream_st;

namespace tensorferry::server {

// The stream (1: the legacy default one, 2: the per-thread one) works with the buffer from now on,
// and finds it complete. The memory is given on, or reused, after what is on the stream then.
void use_on_stream(const Buffer& buffer, CUstream_st* stream);
// One counted copy to memory of the CPU's, after what callers put on their streams; waits for it.
Result<Buffer> copy_to_host(const Buffer& buffer);

}  // namespace tensorferry::server
