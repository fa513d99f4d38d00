#include "context.h"

#include "api.h"
#include "capture.h"
#include "checker.h"
#include "driver.h"
#include "memory.h"

#include <vector>

namespace fakecuda {
namespace {

struct Stack {
  std::vector<CUcontext> contexts;
  int pushes = 0;  // by cuCtxPushCurrent and not popped

  ~Stack() {
    if (pushes > 0)
      report("a thread ended with a context pushed " + std::to_string(pushes) +
             " time(s) more than popped");
  }
};

Stack& stack() {
  thread_local Stack instance;
  return instance;
}

std::shared_ptr<Context> make_context(Driver& driver, int device, unsigned flags, bool is_primary) {
  auto context = std::make_shared<Context>();
  context->device = device;
  context->flags = flags;
  context->is_primary = is_primary;
  context->handle = driver.contexts.add(context);
  context->legacy = driver.engine.add_stream(context, device, 0, 0, true);
  count(&fakecuda_counters::contexts_created);
  return context;
}

CUresult create(Call& call, CUcontext* made, unsigned flags, CUdevice device) {
  if (made == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (device < 0 || static_cast<std::size_t>(device) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  *made = make_context(call.driver, device, flags, false)->handle;
  stack().contexts.push_back(*made);
  return CUDA_SUCCESS;
}

CUresult synchronize(Call& call) {
  count(&fakecuda_counters::context_syncs);
  if (CUresult bad = refuse_if_context_captures(call)) return bad;
  wait_for_context(call.driver, call.lock, call.context);
  return call.context->error;
}

}  // namespace

CUcontext current_handle() { return stack().contexts.empty() ? nullptr : stack().contexts.back(); }

CUresult current_context(std::shared_ptr<Context>& context) {
  const CUcontext handle = current_handle();
  if (handle == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  context = driver().contexts.find(handle);
  return context ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

void wait_for_context(Driver& driver, Lock& lock, const std::shared_ptr<Context>& context) {
  const auto streams = driver.engine.streams();
  for (const auto& stream : streams)
    if (stream->context.lock() == context) driver.engine.force(lock, driver.engine.newest(stream));
  for (const auto& stream : streams)
    if (stream->context.lock() == context) {
      driver.engine.wait(lock, driver.engine.newest(stream));
      note_seen(driver, *stream);
    }
}

void destroy_context(Lock& lock, const std::shared_ptr<Context>& context) {
  Driver& all = driver();
  all.engine.advance(lock);
  for (const auto& stream : std::vector(all.engine.streams())) {
    if (stream->context.lock() != context) continue;
    all.engine.abandon(*stream);
    all.streams.take(stream->handle);
  }
  for (const auto& event : all.events.all())
    if (event->context.lock() == context) destroy_event(all, event);
  free_memory_of(all, context->handle);
  all.contexts.take(context->handle);
  context->legacy = nullptr;
  context->per_thread.clear();
}

CUresult retain_primary(Driver& driver, int ordinal, std::shared_ptr<Context>& context) {
  Device& device = driver.devices[static_cast<std::size_t>(ordinal)];
  if (!device.primary) device.primary = make_context(driver, ordinal, device.primary_flags, true);
  ++device.primary_references;
  context = device.primary;
  return CUDA_SUCCESS;
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuCtxCreate_v2(CUcontext* context, unsigned int flags, CUdevice device) {
  return api(__func__, Need::Init,
             [&](Call& call) { return create(call, context, flags, device); });
}

FAKECUDA_API cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam*, int, unsigned int flags,
                            CUdevice device) {
  return api(__func__, Need::Init,
             [&](Call& call) { return create(call, context, flags, device); });
}

FAKECUDA_API cuCtxCreate_v4(CUcontext* context, CUctxCreateParams*, unsigned int flags,
                            CUdevice device) {
  return api(__func__, Need::Init,
             [&](Call& call) { return create(call, context, flags, device); });
}

FAKECUDA_API cuCtxDestroy_v2(CUcontext handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto context = call.driver.contexts.find(handle);
    if (!context || context->is_primary) return CUDA_ERROR_INVALID_CONTEXT;
    destroy_context(call.lock, context);
    if (current_handle() == handle) stack().contexts.pop_back();
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxPushCurrent_v2(CUcontext handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (!call.driver.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    stack().contexts.push_back(handle);
    ++stack().pushes;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxPopCurrent_v2(CUcontext* popped) {
  return api(__func__, Need::Init, [&](Call&) {
    if (stack().contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (popped != nullptr) *popped = current_handle();
    stack().contexts.pop_back();
    if (stack().pushes > 0) --stack().pushes;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxSetCurrent(CUcontext handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (handle != nullptr && !call.driver.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!stack().contexts.empty()) stack().contexts.pop_back();  // replaces the top
    if (handle != nullptr) stack().contexts.push_back(handle);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxGetCurrent(CUcontext* handle) {
  return api(__func__, Need::Init, [&](Call&) {
    if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *handle = current_handle();
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxGetDevice(CUdevice* device) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult missing = current_context(call.context)) return missing;
    *device = call.context->device;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto context = call.driver.contexts.find(handle != nullptr ? handle : current_handle());
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    *device = context->device;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxSynchronize(void) {
  return api(__func__, Need::Context, [&](Call& call) { return synchronize(call); });
}

FAKECUDA_API cuCtxSynchronize_v2(CUcontext handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    call.context = call.driver.contexts.find(handle != nullptr ? handle : current_handle());
    return call.context ? synchronize(call) : CUDA_ERROR_INVALID_CONTEXT;
  });
}

FAKECUDA_API cuCtxGetFlags(unsigned int* flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    *flags = call.context->flags;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxSetFlags(unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    call.context->flags = flags;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxGetId(CUcontext handle, unsigned long long* id) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto context = call.driver.contexts.find(handle != nullptr ? handle : current_handle());
    if (!context) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *id = context->legacy->id;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxGetApiVersion(CUcontext handle, unsigned int* version) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (handle != nullptr && !call.driver.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    *version = 3020;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return api(__func__, Need::Context, [&](Call&) {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = kGreatestPriority;
    return CUDA_SUCCESS;
  });
}
