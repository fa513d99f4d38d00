// Running out of device memory, told with sizes.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/transport/error.h>

#include <cstddef>

namespace tensorferry::cuda {

// As driver_failure(); for out of memory with what was asked and what the device has. The context
// is current.
std::unexpected<Error> memory_failure(const char* call, int code, std::size_t bytes,
                                      const PrimaryContext& context);

}  // namespace tensorferry::cuda
