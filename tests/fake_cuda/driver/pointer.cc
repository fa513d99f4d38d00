// What the driver knows of an address.
#include "api.h"

namespace fakecuda {
namespace {

struct Known {
  CUdeviceptr address = 0;
  const Mapping* mapping = nullptr;
  const HostRange* host = nullptr;
  CUdeviceptr reserved = 0;
  std::uint64_t reserved_size = 0;

  bool is_any() const { return mapping != nullptr || host != nullptr || reserved_size != 0; }
};

Known look_up(Call& call, CUdeviceptr address) {
  Known known;
  known.address = address;
  known.mapping = call.driver.space.find(address);
  if (known.mapping != nullptr && known.mapping->is_freed) known.mapping = nullptr;
  known.host = call.driver.host.find(address);
  known.reserved_size = call.driver.space.taken(address, known.reserved);
  return known;
}

template <class T>
CUresult store(void* data, T value) {
  *static_cast<T*>(data) = value;
  return CUDA_SUCCESS;
}

int ordinal_of_host(Call& call, const HostRange& range) {
  const auto context = call.driver.contexts.find(range.context);
  return context ? context->device : 0;
}

bool is_legacy_capable(Call& call, const Known& known) {
  return known.mapping != nullptr && known.mapping->kind == MappingKind::Allocated &&
         call.driver.settings.abilities.claims_legacy_ipc;
}

// The range that cuMemAddressReserve or cuMemAlloc took: not always where the mapped part begins.
CUresult range_attribute(const Known& known, CUpointer_attribute attribute, void* data) {
  const bool vmm = known.mapping == nullptr || known.mapping->kind == MappingKind::Vmm;
  CUdeviceptr base = vmm ? known.reserved : known.mapping->base;
  std::uint64_t size = vmm ? known.reserved_size : known.mapping->size;
  if (known.host != nullptr) base = known.host->base, size = known.host->size;
  return attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR
             ? store(data, base)
             : store(data, static_cast<std::size_t>(size));
}

CUresult mapping_attribute(const Known& known, CUpointer_attribute attribute, void* data) {
  const Mapping* mapping = known.mapping;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return store(data, static_cast<std::size_t>(mapping      ? mapping->size
                                                  : known.host ? known.host->size
                                                               : 0));
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return store(data, mapping ? mapping->base : known.host ? known.host->base : 0);
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return store(data, mapping ? mapping->physical->id : 0ULL);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return store(data, static_cast<std::uint64_t>(mapping ? mapping->physical->handle_types : 0));
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return store(data, mapping ? mapping->pool : known.host ? known.host->pool : nullptr);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult access_flags(Call& call, const Known& known, void* data) {
  unsigned flags = CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
  std::shared_ptr<Context> context;
  if (known.mapping != nullptr && current_context(context) == CUDA_SUCCESS) {
    const std::uint32_t bit = 1U << context->device;
    if ((known.mapping->writable & bit) == 0)
      flags = (known.mapping->readable & bit) != 0 ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ
                                                   : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
  }
  (void)call;
  return store(data, flags);
}

CUresult context_of(Call& call, const Known& known, void* data) {
  // Memory that doesn't die with a context has none.
  CUcontext context = known.host != nullptr ? known.host->context : nullptr;
  if (known.mapping != nullptr && known.mapping->kind != MappingKind::Vmm &&
      known.mapping->kind != MappingKind::Pooled)
    context = known.mapping->context;
  (void)call;
  return store(data, context);
}

CUresult attribute_of(Call& call, const Known& known, CUpointer_attribute attribute, void* data) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return context_of(call, known, data);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return store(data, static_cast<unsigned>(known.host != nullptr ? CU_MEMORYTYPE_HOST
                                                                     : CU_MEMORYTYPE_DEVICE));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return store(data, known.address);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return known.host != nullptr ? store(data, known.address) : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return store(data, 0U);
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      return store(data, false);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return store(data, known.mapping != nullptr ? known.mapping->buffer_id
                         : known.host != nullptr  ? known.host->buffer_id
                                                  : 0ULL);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return store(data, known.mapping != nullptr ? known.mapping->device
                         : known.host != nullptr  ? ordinal_of_host(call, *known.host)
                                                  : -2);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return store(data, static_cast<int>(is_legacy_capable(call, known)));
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return store(data, static_cast<int>(known.mapping != nullptr || known.host != nullptr));
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return access_flags(call, known, data);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return range_attribute(known, attribute, data);
    default:
      return mapping_attribute(known, attribute, data);
  }
}

// What cuPointerGetAttributes stores for an address that the driver doesn't know, or for what an
// address doesn't have.
void store_default(CUpointer_attribute attribute, void* data) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      store(data, -2);
      break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      store(data, 0U);
      break;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      store(data, false);
      break;
    default:
      store(data, std::uint64_t{0});
      break;
  }
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    const Known known = look_up(call, pointer);
    if (data == nullptr || !known.is_any()) return CUDA_ERROR_INVALID_VALUE;
    return attribute_of(call, known, attribute, data);
  });
}

FAKECUDA_API cuPointerGetAttributes(unsigned int number, CUpointer_attribute* attributes,
                                    void** data, CUdeviceptr pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    if (attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Known known = look_up(call, pointer);
    for (unsigned i = 0; i < number; ++i) {
      if (attributes[i] < 1 || attributes[i] > CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID)
        return CUDA_ERROR_INVALID_VALUE;
      store_default(attributes[i], data[i]);
      if (known.is_any()) (void)attribute_of(call, known, attributes[i], data[i]);
    }
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuPointerSetAttribute(const void*, CUpointer_attribute attribute,
                                   CUdeviceptr pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    const bool known =
        look_up(call, pointer).is_any() && attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}
