// How every function of the driver begins: it is counted, may be made to fail, and finds the driver
// locked.
#pragma once

#include "driver.h"
#include "live.h"
#include "process_page.h"

#include <cstdint>
#include <memory>

namespace fakecuda {

// What must be there before a function does anything.
enum class Need : std::uint8_t { Nothing, Init, Context };

struct Call {
  Driver& driver;
  Lock lock;
  std::shared_ptr<Context> context;  // Need::Context: the thread's current one, without an error
};

// SUCCESS: go on. Counts, and does what FAKECUDA_FAIL says, which may be to sleep. Takes no lock.
CUresult enter(std::size_t function, const char* name, Need need);
CUresult find_context(Call& call);

// `name` is __func__. One instantiation for each place, so the lookup is made once.
template <class Body>
CUresult api(const char* name, Need need, Body&& body) {
  static const std::size_t function = function_index(name);
  if (CUresult early = enter(function, name, need); early != CUDA_SUCCESS) return early;
  Call call{driver(), Lock(driver().mutex), nullptr};
  if (need == Need::Context)
    if (CUresult missing = find_context(call); missing != CUDA_SUCCESS) return missing;
  const CUresult result = body(call);
  publish_live(call.driver);
  return result;
}

// The same for what needs no cuInit and no driver.
template <class Body>
CUresult bare_api(const char* name, Body&& body) {
  static const std::size_t function = function_index(name);
  if (CUresult early = enter(function, name, Need::Nothing); early != CUDA_SUCCESS) return early;
  return body();
}

// A stream's handle as a function takes it: 0 and 1 (legacy), 2 (per thread), or one that was
// created.
CUresult find_stream(Call& call, CUstream handle, std::shared_ptr<Stream>& stream);
// `error` of the context, or CONTEXT_IS_DESTROYED.
CUresult context_error(const std::weak_ptr<Context>& context);

}  // namespace fakecuda
