// Pools and their allocations across processes.
#include "ipc_memory.h"
#include "pool.h"

#include <fcntl.h>
#include <unistd.h>

namespace fakecuda {
namespace {

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
    pool->token = std::move(token);
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
  if (CUresult full = map_pooled(call, *pool, handle, std::move(physical), ticket.size, pointer))
    return full;
  *pointer += ticket.offset;
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

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
