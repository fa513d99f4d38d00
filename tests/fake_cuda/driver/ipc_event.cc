// Interprocess events: their state lies in the page that all processes share; a handle says where.
#include "capture.h"
#include "ipc_memory.h"

#include <unistd.h>

namespace fakecuda {

std::shared_ptr<EventCell> shared_cell(SharedEvent& shared, bool is_owner);

namespace {

CUresult get_handle(Call& call, CUipcEventHandle* handle, CUevent event_handle) {
  const auto event = call.driver.events.find(event_handle);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!event || event->shared == nullptr || event->is_imported) return CUDA_ERROR_INVALID_HANDLE;
  if (!call.driver.settings.abilities.does_event_ipc) return CUDA_ERROR_NOT_SUPPORTED;
  Ticket ticket{};
  const ProcessId self = this_process();
  ticket.pid = self.pid;
  ticket.start_time = self.start_time;
  ticket.physical_id = event->shared->key.load();
  ticket.offset =
      static_cast<std::uint64_t>(event->shared - call.driver.system.page().events.data());
  ticket.size = 1;
  seal_ticket(ticket, handle);
  count(&fakecuda_counters::ipc_event_exports);
  return CUDA_SUCCESS;
}

CUresult open_handle(Call& call, CUevent* opened, const CUipcEventHandle& handle) {
  Ticket ticket{};
  if (opened == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!call.driver.settings.abilities.does_event_ipc) return CUDA_ERROR_NOT_SUPPORTED;
  if (!open_ticket(&handle, ticket) || ticket.offset >= kMaxEvents) return CUDA_ERROR_INVALID_VALUE;
  if (ticket.pid == static_cast<std::uint32_t>(::getpid()) ||
      !call.driver.settings.abilities.opens_events)
    return CUDA_ERROR_INVALID_CONTEXT;
  SharedEvent& shared = call.driver.system.page().events[ticket.offset];
  if (shared.key.load() != ticket.physical_id || !is_alive({ticket.pid, ticket.start_time}))
    return CUDA_ERROR_INVALID_HANDLE;
  auto event = std::make_shared<Event>();
  event->context = call.context;
  event->flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
  event->is_imported = true;
  event->shared = &shared;
  event->shared_key = ticket.physical_id;
  if (call.driver.settings.abilities.sees_opened_events) {
    event->cell = shared_cell(shared, false);
  } else {
    event->cell = std::make_shared<EventCell>();
    event->cell->recorded = 1;  // and never done
  }
  event->handle = *opened = call.driver.events.add(event);
  count(&fakecuda_counters::ipc_event_opens);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuIpcGetEventHandle(CUipcEventHandle* handle, CUevent event) {
  return api(__func__, Need::Context, [&](Call& call) { return get_handle(call, handle, event); });
}

FAKECUDA_API cuIpcOpenEventHandle(CUevent* event, CUipcEventHandle handle) {
  return api(__func__, Need::Context, [&](Call& call) { return open_handle(call, event, handle); });
}
