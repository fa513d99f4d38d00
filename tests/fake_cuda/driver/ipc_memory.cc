// Legacy IPC of device memory: cuIpc*MemHandle.
#include "ipc_memory.h"

#include "capture.h"
#include "memory.h"

#include <unistd.h>

#include <algorithm>
#include <string>

namespace fakecuda {
namespace {

struct Import {
  std::shared_ptr<Physical> physical;
  CUdeviceptr base = 0;
  CUcontext context = nullptr;
  int device = 0;
  ProcessId exporter;
  std::uint64_t exporter_address = 0;
  std::map<CUdeviceptr, int> opens;  // pointers handed out
};

// Guarded by the driver's lock.
std::map<std::uint64_t, Import>& imports() {
  static auto* map = new std::map<std::uint64_t, Import>;
  return *map;
}

void note_importer(Trailer& trailer, bool comes) {
  const auto pid = static_cast<std::uint32_t>(::getpid());
  for (auto& slot : trailer.importers) {
    std::uint32_t expected = comes ? 0 : pid;
    if (slot.compare_exchange_strong(expected, comes ? pid : 0)) return;
  }
}

CUresult get_handle(Call& call, CUipcMemHandle* handle, CUdeviceptr pointer) {
  const Mapping* mapping = call.driver.space.find(pointer);
  if (handle == nullptr || mapping == nullptr || mapping->kind != MappingKind::Allocated)
    return CUDA_ERROR_INVALID_VALUE;
  if (!call.driver.settings.abilities.does_legacy_ipc) return CUDA_ERROR_NOT_SUPPORTED;
  if (mapping->base != pointer)
    report("cuIpcGetMemHandle: " + hex(pointer) + " is not the base of its allocation " +
           hex(mapping->base));
  Ticket ticket{};
  const ProcessId self = this_process();
  ticket.pid = self.pid;
  ticket.start_time = self.start_time;
  ticket.fd = static_cast<std::uint32_t>(mapping->physical->fd);
  ticket.physical_id = mapping->physical->id;
  ticket.offset = mapping->offset;
  ticket.address = mapping->base - mapping->offset;
  ticket.size = mapping->size;
  seal_ticket(ticket, handle);
  count(&fakecuda_counters::ipc_memory_exports);
  return CUDA_SUCCESS;
}

CUresult import_block(Call& call, const Ticket& ticket, Import& import) {
  const int fd = ticket_descriptor(ticket);
  if (fd < 0) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult bad = open_physical(fd, import.physical);
  ::close(fd);
  if (bad != CUDA_SUCCESS || import.physical->id != ticket.physical_id)
    return CUDA_ERROR_INVALID_HANDLE;  // freed since
  const int here = call.driver.devices[static_cast<std::size_t>(call.context->device)].physical;
  const int home = import.physical->device;
  if (here != home && !can_access_peer(call.driver.settings, here, home))
    return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  import.base = call.driver.space.take(import.physical->size, std::uint64_t{2} << 20);
  if (import.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  import.context = call.context->handle;
  import.device = call.context->device;
  import.exporter = {ticket.pid, ticket.start_time};
  import.exporter_address = ticket.address;
  note_importer(*import.physical->trailer, true);
  Mapping mapping;
  mapping.base = import.base;
  mapping.size = import.physical->size;
  mapping.physical = import.physical;
  mapping.kind = MappingKind::Imported;
  mapping.readable = mapping.writable = kAllDevices;
  mapping.context = import.context;
  mapping.device = import.device;
  call.driver.space.map(std::move(mapping));
  return CUDA_SUCCESS;
}

// An older allocation of the same process is still open and lay where this one lies now.
bool overlaps_open_one(const Ticket& ticket) {
  return std::any_of(imports().begin(), imports().end(), [&](const auto& entry) {
    const Import& other = entry.second;
    return entry.first != ticket.physical_id &&
           other.exporter == ProcessId{ticket.pid, ticket.start_time} &&
           other.exporter_address < ticket.address + ticket.offset + ticket.size &&
           ticket.address < other.exporter_address + other.physical->size;
  });
}

CUresult open_handle(Call& call, CUdeviceptr* pointer, const CUipcMemHandle& handle,
                     unsigned flags) {
  Ticket ticket{};
  if (pointer == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
    return CUDA_ERROR_INVALID_VALUE;
  if (!call.driver.settings.abilities.does_legacy_ipc) return CUDA_ERROR_NOT_SUPPORTED;
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  if (!open_ticket(&handle, ticket)) return CUDA_ERROR_INVALID_VALUE;
  if (ticket.pid == static_cast<std::uint32_t>(::getpid())) return CUDA_ERROR_INVALID_CONTEXT;
  auto found = imports().find(ticket.physical_id);
  if (found == imports().end()) {
    if (overlaps_open_one(ticket)) return CUDA_ERROR_ALREADY_MAPPED;
    Import import;
    if (CUresult bad = import_block(call, ticket, import)) return bad;
    found = imports().emplace(ticket.physical_id, std::move(import)).first;
  } else if (found->second.device == call.context->device &&
             found->second.context != call.context->handle) {
    return CUDA_ERROR_INVALID_CONTEXT;  // one context for each device and exporter
  }
  *pointer = found->second.base + ticket.offset;
  ++found->second.opens[*pointer];
  count(&fakecuda_counters::ipc_memory_opens);
  return CUDA_SUCCESS;
}

void close_import(Driver& driver, std::uint64_t id) {
  Import& import = imports().at(id);
  note_importer(*import.physical->trailer, false);
  driver.space.unmap(import.base);
  driver.space.give_back(import.base);
  imports().erase(id);
}

CUresult close_handle(Call& call, CUdeviceptr pointer) {
  for (auto& [id, import] : imports()) {
    const auto open = import.opens.find(pointer);
    if (open == import.opens.end()) continue;
    count(&fakecuda_counters::ipc_memory_closes);
    if (--open->second == 0) import.opens.erase(open);
    if (!import.opens.empty()) return CUDA_SUCCESS;
    if (call.driver.engine.is_touched(import.base, import.physical->size))
      report("cuIpcCloseMemHandle: " + hex(pointer) +
             " while an operation still reads or writes it");
    close_import(call.driver, id);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

void close_imports_of(Driver& driver, CUcontext context) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, import] : imports())
    if (import.context == context) ids.push_back(id);
  for (const std::uint64_t id : ids) close_import(driver, id);
}

void report_open_imports(const Mapping& mapping, const char* where) {
  for (const auto& slot : mapping.physical->trailer->importers) {
    const std::uint32_t pid = slot.load();
    if (pid != 0 && process_id(pid).start_time != 0)
      report(std::string(where) + ": " + hex(mapping.base) + " while process " +
             std::to_string(pid) + " has it open");
  }
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr pointer) {
  return api(__func__, Need::Context,
             [&](Call& call) { return get_handle(call, handle, pointer); });
}

FAKECUDA_API cuIpcOpenMemHandle_v2(CUdeviceptr* pointer, CUipcMemHandle handle,
                                   unsigned int flags) {
  return api(__func__, Need::Context,
             [&](Call& call) { return open_handle(call, pointer, handle, flags); });
}

FAKECUDA_API cuIpcCloseMemHandle(CUdeviceptr pointer) {
  return api(__func__, Need::Context, [&](Call& call) { return close_handle(call, pointer); });
}
