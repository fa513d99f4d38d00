// What the files about memory need of each other.
#pragma once

#include "driver.h"

namespace fakecuda {

// Closes what that context has open of other processes.
void close_imports_of(Driver& driver, CUcontext context);
void free_host_memory_of(Driver& driver, CUcontext context);
void free_allocated(Driver& driver, CUdeviceptr pointer);
void free_pooled(Driver& driver, CUdeviceptr pointer);
// Undefined behaviour: memory freed while another process has it open by a legacy handle.
void report_open_imports(const Mapping& mapping, const char* where);

// 64 opaque bytes that lead another process to a memfd of this one.
struct Ticket {
  std::uint64_t magic;
  std::uint32_t pid;
  std::uint32_t fd;
  std::uint64_t start_time;
  std::uint64_t physical_id;
  std::uint64_t offset;
  std::uint64_t address;  // in the exporter, of the whole block
  std::uint64_t size;
  std::uint64_t check;
};
static_assert(sizeof(Ticket) == 64);

void seal_ticket(const Ticket& ticket, void* sealed);
// false: no such bytes were ever made.
bool open_ticket(const void* sealed, Ticket& ticket);
// A descriptor that the caller closes; -1: the exporter or its allocation is gone, or isn't in this
// process's view.
int ticket_descriptor(const Ticket& ticket);

}  // namespace fakecuda
