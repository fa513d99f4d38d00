// Stream-ordered memory: pools, their allocations, and both across processes.
#include "capture.h"
#include "ipc_memory.h"
#include "memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <map>

namespace fakecuda {

struct Pool {
  int device = 0;  // ordinal
  unsigned handle_types = 0;
  bool is_imported = false;
  std::uint32_t writable = 0, readable = 0;  // a bit for each ordinal
  std::map<CUmemPool_attribute, std::uint64_t> attributes;
  std::uint64_t used = 0, used_peak = 0;
  std::shared_ptr<Physical> token;  // what its descriptor leads to: no data, only who it is
  bool is_exported = false;
};

namespace {

constexpr std::uint64_t kAlignment = std::uint64_t{2} << 20;

CUmemoryPool add_pool(Driver& driver, int device, unsigned handle_types) {
  auto pool = std::make_shared<Pool>();
  pool->device = device;
  pool->handle_types = handle_types;
  pool->readable = pool->writable = 1U << device;
  return driver.pools.add(std::move(pool));
}

CUmemoryPool default_pool(Driver& driver, int ordinal) {
  Device& device = driver.devices[static_cast<std::size_t>(ordinal)];
  if (device.pool == nullptr) device.pool = device.current_pool = add_pool(driver, ordinal, 0);
  return device.pool;
}

CUresult create(Call& call, CUmemoryPool* handle, const CUmemPoolProps& properties) {
  if (handle == nullptr || properties.allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
    return CUDA_ERROR_INVALID_VALUE;
  if (properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  const int ordinal = properties.location.id;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  if ((properties.handleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (properties.handleTypes != 0 && !call.driver.settings.abilities.does_vmm_fd)
    return CUDA_ERROR_INVALID_VALUE;
  *handle = add_pool(call.driver, ordinal, static_cast<unsigned>(properties.handleTypes));
  return CUDA_SUCCESS;
}

CUresult map_pooled(Call& call, const std::shared_ptr<Pool>& pool, CUmemoryPool handle,
                    std::shared_ptr<Physical> physical, std::uint64_t size, CUdeviceptr* pointer) {
  Mapping mapping;
  mapping.base = call.driver.space.take(physical->size, kAlignment);
  if (mapping.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  mapping.size = size;
  mapping.physical = std::move(physical);
  mapping.kind = MappingKind::Pooled;
  mapping.readable = pool->readable;
  mapping.writable = pool->writable;
  mapping.device = pool->device;
  mapping.pool = handle;
  *pointer = mapping.base;
  call.driver.space.map(std::move(mapping));
  return CUDA_SUCCESS;
}

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
  if (size == 0) {
    *pointer = 0;
    return CUDA_SUCCESS;
  }
  std::shared_ptr<Physical> physical;
  const std::uint64_t whole = (size + 4095) / 4096 * 4096;
  const int device = call.driver.devices[static_cast<std::size_t>(pool->device)].physical;
  CUresult bad = make_physical(call.driver, whole, device, pool->handle_types, physical);
  if (bad == CUDA_ERROR_OUT_OF_MEMORY) {
    wait_for_context(call.driver, call.lock, call.context);  // frees that are under way may help
    bad = make_physical(call.driver, whole, device, pool->handle_types, physical);
  }
  if (bad != CUDA_SUCCESS) return bad;
  if ((bad = map_pooled(call, pool, handle, std::move(physical), size, pointer)) != CUDA_SUCCESS)
    return bad;
  pool->used += size;
  pool->used_peak = std::max(pool->used_peak, pool->used);
  count(&fakecuda_counters::allocations);
  Operation operation;  // usable in stream order only: for the checker
  operation.what = "cuMemAllocFromPoolAsync";
  operation.touches.push_back({*pointer, size, true});
  return enqueue(call, stream, std::move(operation));
}

CUresult free_async(Call& call, CUdeviceptr pointer, CUstream stream_handle) {
  std::shared_ptr<Stream> stream;
  if (CUresult bad = find_stream(call, stream_handle, stream)) return bad;
  Mapping* mapping = call.driver.space.find(pointer);
  if (mapping == nullptr || mapping->base != pointer || mapping->is_freed)
    return CUDA_ERROR_INVALID_VALUE;
  if (mapping->kind != MappingKind::Pooled && mapping->kind != MappingKind::Allocated)
    return CUDA_ERROR_INVALID_VALUE;
  if (mapping->kind == MappingKind::Allocated || stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
  mapping->is_freed = true;
  Operation operation;
  operation.what = "cuMemFreeAsync";
  operation.runs_after_error = true;
  operation.touches.push_back({pointer, mapping->size, true});
  operation.run = [pointer] {
    Lock lock(driver().mutex);
    free_pooled(driver(), pointer);
    return CUDA_SUCCESS;
  };
  return enqueue(call, stream, std::move(operation));
}

CUresult export_pool(Call& call, void* shareable, CUmemoryPool handle,
                     CUmemAllocationHandleType type) {
  const auto pool = call.driver.pools.find(handle);
  if (!pool || shareable == nullptr || pool->is_imported) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || (pool->handle_types & type) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (!pool->token) {
    const int device = call.driver.devices[static_cast<std::size_t>(pool->device)].physical;
    if (CUresult bad = make_physical(call.driver, 0, device, pool->handle_types, pool->token))
      return bad;
    pool->token->trailer->is_pool = 1;
  }
  const int fd = ::fcntl(pool->token->fd, F_DUPFD, 3);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(shareable) = fd;
  pool->is_exported = true;
  count(&fakecuda_counters::fd_exports);
  return CUDA_SUCCESS;
}

CUresult import_pool(Call& call, CUmemoryPool* handle, void* source,
                     CUmemAllocationHandleType type) {
  if (handle == nullptr || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return CUDA_ERROR_INVALID_VALUE;
  if (!call.driver.settings.abilities.does_vmm_fd) return CUDA_ERROR_NOT_SUPPORTED;
  std::shared_ptr<Physical> token;
  if (CUresult bad =
          open_physical(static_cast<int>(reinterpret_cast<std::intptr_t>(source)), token))
    return bad;
  if (token->trailer->is_pool == 0) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < call.driver.devices.size(); ++i) {
    if (call.driver.devices[i].physical != token->device) continue;
    *handle = add_pool(call.driver, static_cast<int>(i), token->handle_types);
    const auto pool = call.driver.pools.find(*handle);
    pool->is_imported = true;
    pool->token = token;
    count(&fakecuda_counters::fd_imports);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

CUresult export_pointer(Call& call, CUmemPoolPtrExportData* data, CUdeviceptr pointer) {
  const Mapping* mapping = call.driver.space.find(pointer);
  if (data == nullptr || mapping == nullptr || mapping->kind != MappingKind::Pooled)
    return CUDA_ERROR_INVALID_VALUE;
  const auto pool = call.driver.pools.find(mapping->pool);
  if (!pool || pool->is_imported || !pool->is_exported) return CUDA_ERROR_INVALID_VALUE;
  Ticket ticket{};
  const ProcessId self = this_process();
  ticket.pid = self.pid;
  ticket.start_time = self.start_time;
  ticket.fd = static_cast<std::uint32_t>(mapping->physical->fd);
  ticket.physical_id = mapping->physical->id;
  ticket.offset = pointer - mapping->base;
  ticket.size = mapping->size;
  seal_ticket(ticket, data);
  return CUDA_SUCCESS;
}

CUresult import_pointer(Call& call, CUdeviceptr* pointer, CUmemoryPool handle,
                        const CUmemPoolPtrExportData* data) {
  const auto pool = call.driver.pools.find(handle);
  Ticket ticket{};
  if (pointer == nullptr || data == nullptr || !pool || !pool->is_imported ||
      !open_ticket(data, ticket))
    return CUDA_ERROR_INVALID_VALUE;
  const int fd = ticket_descriptor(ticket);
  if (fd < 0) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Physical> physical;
  const CUresult bad = open_physical(fd, physical);
  ::close(fd);
  if (bad != CUDA_SUCCESS || physical->id != ticket.physical_id) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult full = map_pooled(call, pool, handle, std::move(physical), ticket.size, pointer))
    return full;
  *pointer += ticket.offset;
  return CUDA_SUCCESS;
}

CUresult set_access(Call& call, CUmemoryPool handle, const CUmemAccessDesc& access) {
  const auto pool = call.driver.pools.find(handle);
  const int ordinal = access.location.id;
  if (!pool || access.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  if (ordinal == pool->device && access.flags == CU_MEM_ACCESS_FLAGS_PROT_NONE)
    return CUDA_ERROR_INVALID_DEVICE;
  const auto& devices = call.driver.devices;
  if (ordinal != pool->device &&
      !can_access_peer(call.driver.settings, devices[static_cast<std::size_t>(ordinal)].physical,
                       devices[static_cast<std::size_t>(pool->device)].physical))
    return CUDA_ERROR_INVALID_DEVICE;
  const std::uint32_t bit = 1U << ordinal;
  pool->readable =
      access.flags != CU_MEM_ACCESS_FLAGS_PROT_NONE ? pool->readable | bit : pool->readable & ~bit;
  pool->writable = access.flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? pool->writable | bit
                                                                      : pool->writable & ~bit;
  for (const auto& [base, mapping] : call.driver.space.mappings()) {
    if (mapping.pool != handle) continue;
    Mapping* writable = call.driver.space.find(base);
    writable->readable = pool->readable;
    writable->writable = pool->writable;
  }
  return CUDA_SUCCESS;
}

// Attributes are int or cuuint64_t, by which one it is.
bool is_wide(CUmemPool_attribute attribute) {
  return attribute >= CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
}

CUresult get_attribute(const Pool& pool, CUmemPool_attribute attribute, void* value) {
  std::uint64_t number = 0;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      number = pool.used;
      break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      number = pool.used_peak;
      break;
    default: {
      const auto found = pool.attributes.find(attribute);
      number = found != pool.attributes.end() ? found->second : is_wide(attribute) ? 0 : 1;
    }
  }
  if (is_wide(attribute))
    *static_cast<cuuint64_t*>(value) = number;
  else
    *static_cast<int*>(value) = static_cast<int>(number);
  return CUDA_SUCCESS;
}

}  // namespace

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

FAKECUDA_API cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
  return api(__func__, Need::Init, [&](Call& call) {
    return properties == nullptr ? CUDA_ERROR_INVALID_VALUE : create(call, pool, *properties);
  });
}

FAKECUDA_API cuMemPoolDestroy(CUmemoryPool pool) {
  return api(__func__, Need::Init, [&](Call& call) {
    for (const auto& device : call.driver.devices)
      if (device.pool == pool) return CUDA_ERROR_INVALID_VALUE;
    return call.driver.pools.take(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  return api(__func__, Need::Init, [&](Call& call) {
    return call.driver.pools.find(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute,
                                   void* value) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto pool = call.driver.pools.find(handle);
    return pool && value != nullptr ? get_attribute(*pool, attribute, value)
                                    : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute,
                                   void* value) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto pool = call.driver.pools.find(handle);
    if (!pool || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    pool->attributes[attribute] = is_wide(attribute)
                                      ? *static_cast<cuuint64_t*>(value)
                                      : static_cast<std::uint64_t>(*static_cast<int*>(value));
    if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH) pool->used_peak = pool->used;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* access, size_t number) {
  return api(__func__, Need::Init, [&](Call& call) {
    for (std::size_t i = 0; i < number; ++i)
      if (CUresult bad = set_access(call, pool, access[i])) return bad;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool handle,
                                CUmemLocation* location) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto pool = call.driver.pools.find(handle);
    if (!pool || flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::uint32_t bit = 1U << location->id;
    *flags = (pool->writable & bit) != 0   ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
             : (pool->readable & bit) != 0 ? CU_MEM_ACCESS_FLAGS_PROT_READ
                                           : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
  });
}

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

FAKECUDA_API cuMemPoolExportToShareableHandle(void* shareable, CUmemoryPool pool,
                                              CUmemAllocationHandleType type, unsigned long long) {
  return api(__func__, Need::Init,
             [&](Call& call) { return export_pool(call, shareable, pool, type); });
}

FAKECUDA_API cuMemPoolImportFromShareableHandle(CUmemoryPool* pool, void* source,
                                                CUmemAllocationHandleType type,
                                                unsigned long long) {
  return api(__func__, Need::Init,
             [&](Call& call) { return import_pool(call, pool, source, type); });
}

FAKECUDA_API cuMemPoolExportPointer(CUmemPoolPtrExportData* data, CUdeviceptr pointer) {
  return api(__func__, Need::Init, [&](Call& call) { return export_pointer(call, data, pointer); });
}

FAKECUDA_API cuMemPoolImportPointer(CUdeviceptr* pointer, CUmemoryPool pool,
                                    CUmemPoolPtrExportData* data) {
  return api(__func__, Need::Init,
             [&](Call& call) { return import_pointer(call, pointer, pool, data); });
}

FAKECUDA_API cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    *pool = default_pool(call.driver, ordinal);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice ordinal) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    default_pool(call.driver, ordinal);
    *pool = call.driver.devices[static_cast<std::size_t>(ordinal)].current_pool;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceSetMemPool(CUdevice ordinal, CUmemoryPool pool) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    if (!call.driver.pools.find(pool)) return CUDA_ERROR_INVALID_VALUE;
    default_pool(call.driver, ordinal);
    call.driver.devices[static_cast<std::size_t>(ordinal)].current_pool = pool;
    return CUDA_SUCCESS;
  });
}
