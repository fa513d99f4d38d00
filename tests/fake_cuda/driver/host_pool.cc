#include "host_pool.h"

#include "capture.h"

#include <sys/mman.h>

namespace fakecuda {

bool is_host_location(CUmemLocationType type) {
  return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
         type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

CUmemoryPool add_host_pool(Driver& driver) {
  auto pool = std::make_shared<Pool>();
  pool->is_host = true;
  return driver.pools.add(std::move(pool));
}

CUmemoryPool default_host_pool(Driver& driver) {
  if (driver.host_pool == nullptr) driver.host_pool = add_host_pool(driver);
  return driver.host_pool;
}

CUresult allocate_host(Call& call, const std::shared_ptr<Stream>& stream, CUdeviceptr* pointer,
                       std::uint64_t size, CUmemoryPool pool) {
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  HostRange range;
  range.base = reinterpret_cast<std::uintptr_t>(mapped);
  range.size = size;
  range.pool = pool;
  range.buffer_id = next_serial();
  range.shadow = make_shadow(size);
  call.driver.host.add(range);
  *pointer = range.base;
  count(&fakecuda_counters::host_allocations);
  Operation operation;  // usable in stream order only: for the checker
  operation.what = "cuMemAllocFromPoolAsync";
  operation.touches.push_back({*pointer, size, true});
  return enqueue(call, stream, std::move(operation));
}

bool is_pooled_host(const Driver& driver, CUdeviceptr pointer) {
  const HostRange* range = driver.host.find(pointer);
  return range != nullptr && range->base == pointer && range->pool != nullptr;
}

CUresult free_host_async(Call& call, const std::shared_ptr<Stream>& stream, CUdeviceptr pointer) {
  const std::uint64_t size = call.driver.host.find(pointer)->size;
  Operation operation;
  operation.what = "cuMemFreeAsync";
  operation.runs_after_error = true;
  operation.touches.push_back({pointer, size, true});
  operation.run = [pointer, size] {
    Lock lock(driver().mutex);
    driver().host.remove(pointer);
    ::munmap(reinterpret_cast<void*>(pointer), size);
    return CUDA_SUCCESS;
  };
  return enqueue(call, stream, std::move(operation));
}

}  // namespace fakecuda
