// Stream-ordered memory from pools.
#include "capture.h"
#include "host_pool.h"
#include "ipc_memory.h"
#include "memory.h"
#include "pool.h"

#include <algorithm>

namespace fakecuda {
namespace {

constexpr std::uint64_t kAlignment = std::uint64_t{2} << 20;

CUresult make_pooled(Call& call, const Pool& pool, std::uint64_t size,
                     std::shared_ptr<Physical>& made) {
  const std::uint64_t whole = (size + 4095) / 4096 * 4096;
  const int device = call.driver.devices[static_cast<std::size_t>(pool.device)].physical;
  const CUresult result = make_physical(call.driver, whole, device, pool.handle_types, made);
  if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  wait_for_context(call.driver, call.lock, call.context);  // frees that are under way may help
  return make_physical(call.driver, whole, device, pool.handle_types, made);
}

CUresult allocate_device(Call& call, const std::shared_ptr<Stream>& stream, CUdeviceptr* pointer,
                         std::uint64_t size, Pool& pool, CUmemoryPool handle) {
  std::shared_ptr<Physical> physical;
  if (CUresult bad = make_pooled(call, pool, size, physical)) return bad;
  if (CUresult bad = map_pooled(call, pool, handle, std::move(physical), size, pointer)) return bad;
  pool.used += size;
  pool.used_peak = std::max(pool.used_peak, pool.used);
  count(&fakecuda_counters::allocations);
  Operation operation;  // usable in stream order only: for the checker
  operation.what = "cuMemAllocFromPoolAsync";
  operation.touches.push_back({*pointer, size, true});
  return enqueue(call, stream, std::move(operation));
}

// `handle` null: the current pool of the stream's device.
CUresult allocate(Call& call, CUdeviceptr* pointer, std::uint64_t size, CUmemoryPool handle,
                  CUstream stream_handle) {
  std::shared_ptr<Stream> stream;
  if (CUresult bad = find_stream(call, stream_handle, stream)) return bad;
  if (handle == nullptr) {
    default_pool(call.driver, stream->device);
    handle = call.driver.devices[static_cast<std::size_t>(stream->device)].current_pool;
  }
  const auto pool = call.driver.pools.find(handle);
  if (!pool || pool->is_imported || pointer == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (stream->capture) return CUDA_ERROR_NOT_SUPPORTED;  // memory nodes of graphs: not emulated
  *pointer = 0;
  if (size == 0) return CUDA_SUCCESS;
  if (pool->is_host) return allocate_host(call, stream, pointer, size, handle);
  return allocate_device(call, stream, pointer, size, *pool, handle);
}

CUresult free_async(Call& call, CUdeviceptr pointer, CUstream stream_handle) {
  std::shared_ptr<Stream> stream;
  if (CUresult bad = find_stream(call, stream_handle, stream)) return bad;
  if (stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
  if (is_pooled_host(call.driver, pointer)) return free_host_async(call, stream, pointer);
  Mapping* mapping = call.driver.space.find(pointer);
  if (mapping == nullptr || mapping->base != pointer || mapping->is_freed)
    return CUDA_ERROR_INVALID_VALUE;
  const bool is_pooled = mapping->kind == MappingKind::Pooled;
  if (!is_pooled && mapping->kind != MappingKind::Allocated) return CUDA_ERROR_INVALID_VALUE;
  mapping->is_freed = true;
  Operation operation;
  operation.what = "cuMemFreeAsync";
  operation.runs_after_error = true;
  operation.touches.push_back({pointer, mapping->size, true});
  operation.run = [pointer, is_pooled] {
    Lock lock(driver().mutex);
    is_pooled ? free_pooled(driver(), pointer) : free_allocated(driver(), pointer);
    return CUDA_SUCCESS;
  };
  return enqueue(call, stream, std::move(operation));
}

}  // namespace

CUresult map_pooled(Call& call, const Pool& pool, CUmemoryPool handle,
                    std::shared_ptr<Physical> physical, std::uint64_t size, CUdeviceptr* pointer) {
  Mapping mapping;
  mapping.base = call.driver.space.take(physical->size, kAlignment);
  if (mapping.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  mapping.size = size;
  mapping.physical = std::move(physical);
  mapping.kind = MappingKind::Pooled;
  mapping.readable = pool.readable;
  mapping.writable = pool.writable;
  mapping.device = pool.device;
  mapping.pool = handle;
  *pointer = mapping.base;
  call.driver.space.map(std::move(mapping));
  return CUDA_SUCCESS;
}

void free_pooled(Driver& driver, CUdeviceptr pointer) {
  const Mapping* mapping = driver.space.find(pointer);
  if (mapping == nullptr) return;
  const CUdeviceptr base = mapping->base;
  if (const auto pool = driver.pools.find(mapping->pool); pool && !pool->is_imported) {
    pool->used -= mapping->size;
    poison(mapping->physical->data, mapping->size, 0xdd);
  }
  driver.space.unmap(base);
  driver.space.give_back(base);
  count(&fakecuda_counters::frees);
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuMemAllocFromPoolAsync(CUdeviceptr* pointer, size_t size, CUmemoryPool pool,
                                     CUstream stream) {
  return api(__func__, Need::Context, [&](Call& call) {
    return pool == nullptr ? CUDA_ERROR_INVALID_VALUE : allocate(call, pointer, size, pool, stream);
  });
}

FAKECUDA_API cuMemAllocAsync(CUdeviceptr* pointer, size_t size, CUstream stream) {
  return api(__func__, Need::Context,
             [&](Call& call) { return allocate(call, pointer, size, nullptr, stream); });
}

FAKECUDA_API cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
  return api(__func__, Need::Context,
             [&](Call& call) { return free_async(call, pointer, stream); });
}
