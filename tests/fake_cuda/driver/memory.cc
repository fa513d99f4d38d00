// cuMemAlloc and cuMemFree. Small allocations share blocks of 2 MiB, as the real driver's do: who
// exports one exports its neighbours too.
#include "memory.h"

#include "capture.h"
#include "checker.h"
#include "ipc_memory.h"

#include <cstdio>
#include <list>
#include <string>

namespace fakecuda {
namespace {

constexpr std::uint64_t kBlock = std::uint64_t{2} << 20;
constexpr std::uint64_t kAlignment = 512;

struct Block {
  std::shared_ptr<Physical> physical;
  CUdeviceptr base = 0;
  CUcontext context = nullptr;
  std::map<std::uint64_t, std::uint64_t> used;  // offset -> end
};

// Guarded by the driver's lock.
std::list<Block>& blocks() {
  static auto* list = new std::list<Block>;
  return *list;
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// false: no gap of that size.
bool find_gap(const Block& block, std::uint64_t size, std::uint64_t& offset) {
  offset = 0;
  for (const auto& [begin, end] : block.used) {
    if (offset + size <= begin) return true;
    offset = end;
  }
  return offset + size <= block.physical->size;
}

CUresult add_block(Call& call, std::uint64_t size) {
  Block block;
  block.context = call.context->handle;
  const int device = call.driver.devices[static_cast<std::size_t>(call.context->device)].physical;
  if (CUresult bad = make_physical(call.driver, round_up(size, kBlock), device, 0, block.physical))
    return bad;
  block.physical->poison_at_end = true;
  block.base = call.driver.space.take(block.physical->size, kBlock);
  if (block.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  blocks().push_back(std::move(block));
  return CUDA_SUCCESS;
}

void map_allocation(Call& call, Block& block, std::uint64_t offset, std::uint64_t size) {
  Mapping mapping;
  mapping.base = block.base + offset;
  mapping.size = size;
  mapping.physical = block.physical;
  mapping.offset = offset;
  mapping.readable = mapping.writable = kAllDevices;  // of copies; kernels compute nothing here
  mapping.context = call.context->handle;
  mapping.device = call.context->device;
  call.driver.space.map(std::move(mapping));
  count(&fakecuda_counters::allocations);
}

CUresult allocate(Call& call, CUdeviceptr* pointer, std::uint64_t size) {
  if (pointer == nullptr || size == 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  if (size > call.driver.settings.device_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::uint64_t rounded = round_up(size, kAlignment);
  std::uint64_t offset = 0;
  Block* chosen = nullptr;
  if (rounded <= kBlock / 2)
    for (auto& block : blocks())
      if (chosen == nullptr && block.context == call.context->handle &&
          block.physical->size == kBlock && find_gap(block, rounded, offset))
        chosen = &block;
  if (chosen == nullptr) {
    if (CUresult bad = add_block(call, rounded)) return bad;
    chosen = &blocks().back();
    offset = 0;
  }
  chosen->used[offset] = offset + rounded;
  map_allocation(call, *chosen, offset, size);
  *pointer = chosen->base + offset;
  return CUDA_SUCCESS;
}

void release(Driver& driver, const Mapping& mapping) {
  const CUdeviceptr base = mapping.base;
  const auto physical = mapping.physical;
  poison(physical->data + mapping.offset, mapping.size, 0xdd);
  forget_accesses(*physical, mapping.offset, mapping.size);
  for (auto block = blocks().begin(); block != blocks().end(); ++block) {
    if (block->physical != physical) continue;
    block->used.erase(mapping.offset);
    if (block->used.empty()) {
      driver.space.give_back(block->base);
      blocks().erase(block);
    }
    break;
  }
  driver.space.unmap(base);
  count(&fakecuda_counters::frees);
}

CUresult free_memory(Call& call, CUdeviceptr pointer) {
  if (pointer == 0) return CUDA_SUCCESS;
  const Mapping* mapping = call.driver.space.find(pointer);
  if (mapping == nullptr || mapping->base != pointer || mapping->is_freed)
    return CUDA_ERROR_INVALID_VALUE;
  if (mapping->kind == MappingKind::Vmm || mapping->kind == MappingKind::Imported)
    return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  wait_implicitly(call);
  mapping = call.driver.space.find(pointer);
  if (mapping == nullptr || mapping->base != pointer) return CUDA_ERROR_INVALID_VALUE;
  if (mapping->kind == MappingKind::Pooled) {
    free_pooled(call.driver, pointer);
    return CUDA_SUCCESS;
  }
  report_open_imports(*mapping, "cuMemFree");
  release(call.driver, *mapping);
  return CUDA_SUCCESS;
}

}  // namespace

std::string hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

void wait_implicitly(Call& call) {
  count(&fakecuda_counters::implicit_syncs);
  wait_for_context(call.driver, call.lock, call.context);
}

void free_allocated(Driver& driver, CUdeviceptr pointer) {
  if (const Mapping* mapping = driver.space.find(pointer)) release(driver, *mapping);
}

void free_memory_of(Driver& driver, CUcontext context) {
  std::vector<CUdeviceptr> bases;
  for (const auto& [base, mapping] : driver.space.mappings())
    if (mapping.context == context && mapping.kind == MappingKind::Allocated) bases.push_back(base);
  for (const CUdeviceptr base : bases) release(driver, *driver.space.find(base));
  close_imports_of(driver, context);
  free_host_memory_of(driver, context);
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuMemAlloc_v2(CUdeviceptr* pointer, size_t size) {
  return api(__func__, Need::Context, [&](Call& call) { return allocate(call, pointer, size); });
}

FAKECUDA_API cuMemAllocPitch_v2(CUdeviceptr* pointer, size_t* pitch, size_t width, size_t height,
                                unsigned int element) {
  return api(__func__, Need::Context, [&](Call& call) {
    if (pitch == nullptr || (element != 4 && element != 8 && element != 16))
      return CUDA_ERROR_INVALID_VALUE;
    *pitch = round_up(width, kAlignment);
    return allocate(call, pointer, *pitch * height);
  });
}

FAKECUDA_API cuMemFree_v2(CUdeviceptr pointer) {
  return api(__func__, Need::Context, [&](Call& call) { return free_memory(call, pointer); });
}

FAKECUDA_API cuMemGetInfo_v2(size_t* available, size_t* total) {
  return api(__func__, Need::Context, [&](Call& call) {
    if (available == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const int device = call.driver.devices[static_cast<std::size_t>(call.context->device)].physical;
    const std::uint64_t used = call.driver.system.device_bytes(device);
    *total = call.driver.settings.device_bytes;
    *available = used < *total ? *total - used : 0;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* size, CUdeviceptr pointer) {
  return api(__func__, Need::Context, [&](Call& call) {
    const Mapping* mapping = call.driver.space.find(pointer);
    const HostRange* host = call.driver.host.find(pointer);
    if (mapping == nullptr && host == nullptr) return CUDA_ERROR_NOT_FOUND;
    if (base != nullptr) *base = mapping != nullptr ? mapping->base : host->base;
    if (size != nullptr) *size = mapping != nullptr ? mapping->size : host->size;
    return CUDA_SUCCESS;
  });
}

// The first CUDA's functions, of 32-bit addresses: who looks up the bare name gets these.
FAKECUDA_API cuMemGetAddressRange(CUdeviceptr_v1*, unsigned int*, CUdeviceptr_v1) {
  return bare_api(__func__, [] { return CUDA_ERROR_INVALID_CONTEXT; });
}
FAKECUDA_API cuMemAlloc(CUdeviceptr_v1*, unsigned int) {
  return bare_api(__func__, [] { return CUDA_ERROR_INVALID_CONTEXT; });
}
FAKECUDA_API cuMemFree(CUdeviceptr_v1) {
  return bare_api(__func__, [] { return CUDA_ERROR_INVALID_CONTEXT; });
}

FAKECUDA_API cuMemAllocManaged(CUdeviceptr*, size_t, unsigned int) {
  return api(__func__, Need::Context, [](Call&) { return CUDA_ERROR_NOT_SUPPORTED; });
}
