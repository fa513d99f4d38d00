#include "memory_error.h"

#include <string>

#include "driver_call.h"

namespace tensorferry::cuda {

std::unexpected<Error> memory_failure(const char* call, int code, std::size_t bytes,
                                      const PrimaryContext& context) {
  auto failed = driver_failure(call, code);
  if (code != abi::kOutOfMemory) return failed;
  std::string& message = failed.error().message;
  message +=
      ": " + std::to_string(bytes) + " bytes were asked of " + to_string(context.device().uuid);
  std::size_t free = 0;
  std::size_t total = 0;
  if (raw_call<"cuMemGetInfo_v2">(&free, &total) == abi::kSuccess) {
    message += ", which has " + std::to_string(free) + " of " + std::to_string(total) + " free";
  }
  return failed;
}

}  // namespace tensorferry::cuda
