// Pinned host memory: allocated by the driver, or the caller's own, registered.
#include "capture.h"
#include "ipc_memory.h"
#include "memory.h"

#include <sys/mman.h>

#include <string>

namespace fakecuda {
namespace {

HostRange make_range(Call& call, std::uint64_t base, std::uint64_t size, unsigned flags,
                     bool is_registered) {
  HostRange range;
  range.base = base;
  range.size = size;
  range.flags = flags;
  range.is_registered = is_registered;
  range.context = call.context->handle;
  range.buffer_id = next_serial();
  range.shadow = make_shadow(size);
  return range;
}

CUresult allocate(Call& call, void** pointer, std::uint64_t size, unsigned flags) {
  constexpr unsigned kKnown =
      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (pointer == nullptr || size == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  call.driver.host.add(
      make_range(call, reinterpret_cast<std::uintptr_t>(mapped), size, flags, false));
  count(&fakecuda_counters::host_allocations);
  *pointer = mapped;
  return CUDA_SUCCESS;
}

CUresult register_range(Call& call, void* pointer, std::uint64_t size, unsigned flags) {
  constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                              CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;
  if (!call.driver.settings.abilities.does_host_register) return CUDA_ERROR_NOT_SUPPORTED;
  if (pointer == nullptr || size == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  const auto base = reinterpret_cast<std::uintptr_t>(pointer);
  if (call.driver.space.contains(base)) return CUDA_ERROR_INVALID_VALUE;
  const std::uint64_t page = base / 4096 * 4096;
  // Pinning takes the pages: what isn't mapped can't be pinned.
  if (::msync(reinterpret_cast<void*>(page), base + size - page, MS_ASYNC) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (!call.driver.host.add(make_range(call, base, size, flags, true)))
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  count(&fakecuda_counters::host_registers);
  return CUDA_SUCCESS;
}

void remove(Driver& driver, const HostRange& range) {
  const std::uint64_t base = range.base, size = range.size;
  const bool is_registered = range.is_registered;
  driver.host.remove(base);
  if (!is_registered) ::munmap(reinterpret_cast<void*>(base), size);
}

}  // namespace

std::shared_ptr<ShadowEntry> make_shadow(std::uint64_t size) {
  const std::uint64_t bytes = shadow_bytes(size);
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  return {static_cast<ShadowEntry*>(mapped),
          [bytes](ShadowEntry* entries) { ::munmap(entries, bytes); }};
}

void free_host_memory_of(Driver& driver, CUcontext context) {
  std::vector<HostRange> ranges;
  for (const auto& [base, range] : driver.host.ranges())
    if (range.context == context) ranges.push_back(range);
  for (const auto& range : ranges) remove(driver, range);
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuMemHostAlloc(void** pointer, size_t size, unsigned int flags) {
  return api(__func__, Need::Context,
             [&](Call& call) { return allocate(call, pointer, size, flags); });
}

FAKECUDA_API cuMemAllocHost_v2(void** pointer, size_t size) {
  return api(__func__, Need::Context, [&](Call& call) { return allocate(call, pointer, size, 0); });
}

FAKECUDA_API cuMemFreeHost(void* pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    const HostRange* range = call.driver.host.find(reinterpret_cast<std::uintptr_t>(pointer));
    if (range == nullptr || range->is_registered ||
        range->base != reinterpret_cast<std::uintptr_t>(pointer))
      return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = refuse_while_capturing(call)) return bad;
    const HostRange copy = *range;
    wait_implicitly(call);
    remove(call.driver, copy);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemHostRegister_v2(void* pointer, size_t size, unsigned int flags) {
  return api(__func__, Need::Context,
             [&](Call& call) { return register_range(call, pointer, size, flags); });
}

FAKECUDA_API cuMemHostUnregister(void* pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    const auto base = reinterpret_cast<std::uintptr_t>(pointer);
    const HostRange* range = call.driver.host.find(base);
    if (range == nullptr || !range->is_registered || range->base != base)
      return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    if (call.driver.engine.is_touched(base, range->size))
      report("cuMemHostUnregister: " + hex(base) + " while a copy still reads or writes it");
    remove(call.driver, *range);
    count(&fakecuda_counters::host_unregisters);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* pointer, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    if (device == nullptr || flags != 0 || call.driver.host.find(address) == nullptr)
      return CUDA_ERROR_INVALID_VALUE;
    *device = address;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemHostGetFlags(unsigned int* flags, void* pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    const HostRange* range = call.driver.host.find(reinterpret_cast<std::uintptr_t>(pointer));
    if (flags == nullptr || range == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *flags = range->flags;
    return CUDA_SUCCESS;
  });
}
