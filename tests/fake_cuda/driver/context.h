// Contexts and which is current on a thread.
#pragma once

#include "stream.h"

#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace fakecuda {

struct Context {
  CUcontext handle = nullptr;
  int device = 0;
  bool is_primary = false;
  unsigned flags = 0;
  CUresult error = CUDA_SUCCESS;  // sticky
  std::shared_ptr<Stream> legacy;
  std::map<std::thread::id, std::shared_ptr<Stream>> per_thread;
};

// The calling thread's current context: SUCCESS, INVALID_CONTEXT (none) or CONTEXT_IS_DESTROYED.
CUresult current_context(std::shared_ptr<Context>& context);
CUcontext current_handle();

inline constexpr int kGreatestPriority = -5;

struct Driver;
using Lock = std::unique_lock<std::mutex>;

CUresult retain_primary(Driver& driver, int ordinal, std::shared_ptr<Context>& context);
// Runs and waits for all that is enqueued on its streams.
void wait_for_context(Driver& driver, Lock& lock, const std::shared_ptr<Context>& context);
// Frees what dies with a context: streams, events, memory of cuMemAlloc and cuMemHostAlloc.
void destroy_context(Lock& lock, const std::shared_ptr<Context>& context);

}  // namespace fakecuda
