// Calls of the driver, by name: the one way that this library makes them.
//
//   if (auto done = call<"cuMemUnmap">(address, bytes); !done) return done;
#pragma once

#include <tensorferry/cuda/driver.h>
#include <tensorferry/transport/error.h>

#include "driver_api.h"

namespace tensorferry::cuda {

// The process's driver; nullptr before Driver::get() found it.
const DriverApi* loaded_api() noexcept;
// What the driver's answer means, as an error that names the call. `code` is not kSuccess.
std::unexpected<Error> driver_failure(const char* call, int code,
                                      const DriverApi* api = loaded_api());
// True for an answer that says that the context, or the whole process, is broken for good.
bool is_sticky(int code) noexcept;

// The driver's own answer, for those that tell one from another.
template <EntryName Name, class... Arguments>
int raw_call(Arguments... arguments) noexcept {
  const DriverApi* api = loaded_api();
  if (!api || forked_after_cuda()) return abi::kNotInitialized;
  auto* function = function_of<Name>(*api);
  return function ? function(arguments...) : abi::kNotSupported;
}

template <EntryName Name, class... Arguments>
Result<void> call(Arguments... arguments) {
  const int code = raw_call<Name>(arguments...);
  if (code != abi::kSuccess) [[unlikely]]
    return driver_failure(Name.text, code);
  return {};
}

}  // namespace tensorferry::cuda
