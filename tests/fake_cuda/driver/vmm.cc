// Virtual memory management: physical memory, addresses and access, each on its own.
#include "capture.h"
#include "memory.h"
#include "process_page.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <string>

namespace fakecuda {
namespace {

using Handle = CUmemGenericAllocationHandle;

CUresult check_properties(Call& call, const CUmemAllocationProp& properties) {
  if (properties.type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_NOT_SUPPORTED;  // host memory: not emulated
  if (properties.location.id < 0 ||
      static_cast<std::size_t>(properties.location.id) >= call.driver.devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  const int types = properties.requestedHandleTypes;
  if ((types & CU_MEM_HANDLE_TYPE_FABRIC) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  if ((types & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (types != 0 && !call.driver.settings.abilities.does_vmm_fd) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult create(Call& call, Handle* handle, std::uint64_t size,
                const CUmemAllocationProp& properties) {
  if (CUresult bad = check_properties(call, properties)) return bad;
  if (handle == nullptr || size == 0 || size % call.driver.settings.granularity != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  const int device = call.driver.devices[static_cast<std::size_t>(properties.location.id)].physical;
  std::shared_ptr<Physical> physical;
  const auto types = static_cast<unsigned>(properties.requestedHandleTypes);
  if (CUresult bad = make_physical(call.driver, size, device, types, physical)) return bad;
  physical->references = 1;
  *handle = call.driver.physicals.add(std::move(physical));
  count(&fakecuda_counters::allocations);
  return CUDA_SUCCESS;
}

// -1: not visible here.
int ordinal_of(const Driver& driver, int physical) {
  for (std::size_t i = 0; i < driver.devices.size(); ++i)
    if (driver.devices[i].physical == physical) return static_cast<int>(i);
  return -1;
}

CUresult import(Call& call, Handle* handle, void* source, CUmemAllocationHandleType type) {
  const auto& can = call.driver.settings.abilities;
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || !can.does_vmm_fd)
    return CUDA_ERROR_NOT_SUPPORTED;
  std::shared_ptr<Physical> physical;
  const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(source));
  if (CUresult bad = open_physical(fd, physical)) return bad;
  if (physical->trailer->is_pool != 0) return CUDA_ERROR_INVALID_VALUE;
  physical->references = 1;
  *handle = call.driver.physicals.add(std::move(physical));
  count(&fakecuda_counters::fd_imports);
  return CUDA_SUCCESS;
}

CUresult map(Call& call, CUdeviceptr address, std::uint64_t size, std::uint64_t offset,
             Handle handle, unsigned long long flags) {
  const auto physical = call.driver.physicals.find(handle);
  CUdeviceptr base = 0;
  const std::uint64_t reserved = call.driver.space.taken(address, base);
  if (!physical || offset != 0 || flags != 0 || size != physical->size)
    return CUDA_ERROR_INVALID_VALUE;
  if (reserved == 0 || address + size > base + reserved) return CUDA_ERROR_INVALID_VALUE;
  if (call.driver.space.find(address) != nullptr ||
      !call.driver.space.within(address, size).empty())
    return CUDA_ERROR_INVALID_VALUE;
  Mapping mapping;
  mapping.base = address;
  mapping.size = size;
  mapping.physical = physical;
  mapping.kind = MappingKind::Vmm;
  mapping.device = ordinal_of(call.driver, physical->device);
  mapping.handle = handle;
  call.driver.space.map(std::move(mapping));
  count(&fakecuda_counters::maps);
  return CUDA_SUCCESS;
}

// The whole mappings that make up a range; empty: it isn't made up so.
std::vector<Mapping*> whole_mappings(Call& call, CUdeviceptr address, std::uint64_t size) {
  auto found = call.driver.space.within(address, size);
  CUdeviceptr at = address;
  for (const Mapping* mapping : found) {
    if (mapping->kind != MappingKind::Vmm || mapping->base != at) return {};
    at += mapping->size;
  }
  return at == address + size ? found : std::vector<Mapping*>{};
}

CUresult unmap(Call& call, CUdeviceptr address, std::uint64_t size) {
  const auto found = whole_mappings(call, address, size);
  if (found.empty()) return CUDA_ERROR_INVALID_VALUE;
  if (call.driver.engine.is_touched(address, size))
    report("cuMemUnmap: " + hex(address) + " while an operation still reads or writes it");
  std::vector<CUdeviceptr> bases;
  for (const Mapping* mapping : found) bases.push_back(mapping->base);
  for (const CUdeviceptr base : bases) call.driver.space.unmap(base);
  count(&fakecuda_counters::unmaps);
  return CUDA_SUCCESS;
}

CUresult set_access(Call& call, CUdeviceptr address, std::uint64_t size,
                    const CUmemAccessDesc& access) {
  const auto& devices = call.driver.devices;
  const int ordinal = access.location.id;
  if (access.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  const auto found = whole_mappings(call, address, size);
  if (found.empty()) return CUDA_ERROR_INVALID_VALUE;
  const int physical = devices[static_cast<std::size_t>(ordinal)].physical;
  for (Mapping* mapping : found) {
    const int home = mapping->physical->device;
    if (home != physical && !can_access_peer(call.driver.settings, physical, home))
      return CUDA_ERROR_INVALID_DEVICE;
    const std::uint32_t bit = 1U << ordinal;
    mapping->readable = (access.flags & CU_MEM_ACCESS_FLAGS_PROT_READ) != 0
                            ? mapping->readable | bit
                            : mapping->readable & ~bit;
    const bool writes = access.flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    mapping->writable = writes ? mapping->writable | bit : mapping->writable & ~bit;
  }
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuMemGetAllocationGranularity(size_t* granularity,
                                           const CUmemAllocationProp* properties,
                                           CUmemAllocationGranularity_flags) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (granularity == nullptr || properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *granularity = call.driver.settings.granularity;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemCreate(Handle* handle, size_t size, const CUmemAllocationProp* properties,
                         unsigned long long flags) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (properties == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    return create(call, handle, size, *properties);
  });
}

FAKECUDA_API cuMemRelease(Handle handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto physical = call.driver.physicals.find(handle);
    if (!physical || physical->references == 0) return CUDA_ERROR_INVALID_VALUE;
    if (--physical->references == 0) {
      call.driver.physicals.take(handle);
      count(&fakecuda_counters::frees);
    }
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemRetainAllocationHandle(Handle* handle, void* address) {
  return api(__func__, Need::Init, [&](Call& call) {
    Mapping* mapping = call.driver.space.find(reinterpret_cast<std::uintptr_t>(address));
    if (handle == nullptr || mapping == nullptr || mapping->kind != MappingKind::Vmm)
      return CUDA_ERROR_INVALID_VALUE;
    ++mapping->physical->references;
    if (!call.driver.physicals.find(mapping->handle))
      mapping->handle = call.driver.physicals.add(mapping->physical);
    *handle = mapping->handle;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemExportToShareableHandle(void* shareable, Handle handle,
                                          CUmemAllocationHandleType type,
                                          unsigned long long flags) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto physical = call.driver.physicals.find(handle);
    if (shareable == nullptr || !physical || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || (physical->handle_types & type) == 0)
      return CUDA_ERROR_INVALID_VALUE;
    // Survives exec: whether the real one does is not documented, so who wants otherwise has to say
    // so.
    const int fd = ::fcntl(physical->fd, F_DUPFD, 3);
    if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    *static_cast<int*>(shareable) = fd;
    count(&fakecuda_counters::fd_exports);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemImportFromShareableHandle(Handle* handle, void* source,
                                            CUmemAllocationHandleType type) {
  return api(__func__, Need::Init, [&](Call& call) { return import(call, handle, source, type); });
}

FAKECUDA_API cuMemAddressReserve(CUdeviceptr* pointer, size_t size, size_t alignment, CUdeviceptr,
                                 unsigned long long flags) {
  return api(__func__, Need::Init, [&](Call& call) {
    const bool power = alignment == 0 || std::has_single_bit(alignment);
    if (pointer == nullptr || size == 0 || size % 65536 != 0 || !power || flags != 0)
      return CUDA_ERROR_INVALID_VALUE;
    *pointer =
        call.driver.space.take(size, std::max<std::uint64_t>(alignment, std::uint64_t{2} << 20));
    if (*pointer == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    call.driver.space.note_reservation(true);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemAddressFree(CUdeviceptr pointer, size_t size) {
  return api(__func__, Need::Init, [&](Call& call) {
    CUdeviceptr base = 0;
    if (call.driver.space.taken(pointer, base) != size || base != pointer)
      return CUDA_ERROR_INVALID_VALUE;
    if (!call.driver.space.within(pointer, size).empty()) return CUDA_ERROR_INVALID_VALUE;
    call.driver.space.give_back(pointer);
    call.driver.space.note_reservation(false);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemMap(CUdeviceptr address, size_t size, size_t offset, Handle handle,
                      unsigned long long flags) {
  return api(__func__, Need::Init,
             [&](Call& call) { return map(call, address, size, offset, handle, flags); });
}

FAKECUDA_API cuMemUnmap(CUdeviceptr address, size_t size) {
  return api(__func__, Need::Init, [&](Call& call) { return unmap(call, address, size); });
}

FAKECUDA_API cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc* access,
                            size_t number) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (access == nullptr || number == 0) return CUDA_ERROR_INVALID_VALUE;
    for (std::size_t i = 0; i < number; ++i)
      if (CUresult bad = set_access(call, address, size, access[i])) return bad;
    count(&fakecuda_counters::access_changes);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location,
                            CUdeviceptr address) {
  return api(__func__, Need::Init, [&](Call& call) {
    const Mapping* mapping = call.driver.space.find(address);
    if (flags == nullptr || location == nullptr || mapping == nullptr)
      return CUDA_ERROR_INVALID_VALUE;
    const std::uint32_t bit = 1U << location->id;
    *flags = (mapping->writable & bit) != 0   ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
             : (mapping->readable & bit) != 0 ? CU_MEM_ACCESS_FLAGS_PROT_READ
                                              : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* properties,
                                                    Handle handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto physical = call.driver.physicals.find(handle);
    if (properties == nullptr || !physical) return CUDA_ERROR_INVALID_VALUE;
    *properties = {};
    properties->type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties->location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties->location.id = ordinal_of(call.driver, physical->device);
    properties->requestedHandleTypes =
        static_cast<CUmemAllocationHandleType>(physical->handle_types);
    return CUDA_SUCCESS;
  });
}
