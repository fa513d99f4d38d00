// What the emulated driver has beyond the real one: its counters, its reports, its scheduler's
// lever and its faults. All functions may be called from any thread, before cuInit too, and are
// never counted as driver calls.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAKECUDA_EXPORT __attribute__((visibility("default")))

// Calls and bytes since the process started or fakecuda_reset_counters(). Every field is a
// uint64_t; their names, in order, are what fakecuda_counter_names() says.
typedef struct fakecuda_counters {
  uint64_t driver_calls;
  // Copies by where from, where to, and whether the host's memory is known to the driver (pinned)
  // or not (pageable).
  uint64_t copies_h2d_pinned, bytes_h2d_pinned;
  uint64_t copies_h2d_pageable, bytes_h2d_pageable;
  uint64_t copies_d2h_pinned, bytes_d2h_pinned;
  uint64_t copies_d2h_pageable, bytes_d2h_pageable;
  uint64_t copies_d2d, bytes_d2d;    // within a device
  uint64_t copies_peer, bytes_peer;  // between two devices
  uint64_t copies_h2h, bytes_h2h;
  uint64_t memsets, kernels, host_functions, graph_launches;
  // What a thread of the caller may wait in.
  uint64_t stream_syncs, event_syncs, context_syncs;
  uint64_t implicit_syncs;  // cuMemFree, synchronous copies, copies to pageable memory
  uint64_t stream_queries, event_queries;
  uint64_t stream_waits, event_records;
  uint64_t streams_created, events_created, contexts_created;
  uint64_t ipc_memory_exports, ipc_memory_opens, ipc_memory_closes;
  uint64_t ipc_event_exports, ipc_event_opens;
  uint64_t fd_exports, fd_imports;
  uint64_t maps, unmaps, access_changes;
  uint64_t host_registers, host_unregisters, host_allocations;
  uint64_t allocations, frees;  // of device memory, by any of the driver's ways
  uint64_t device_bytes,
      device_bytes_peak;  // physical memory that this process has allocated, now and at most
  uint64_t reports;
} fakecuda_counters;

// 1 for this interface.
FAKECUDA_EXPORT int fakecuda_version(void);

// Names of the fields of fakecuda_counters, comma-separated, in their order.
FAKECUDA_EXPORT const char* fakecuda_counter_names(void);
FAKECUDA_EXPORT void fakecuda_get_counters(fakecuda_counters* counters);
FAKECUDA_EXPORT void fakecuda_reset_counters(void);
// How often this process has called the driver's function of that exact name ("cuMemAlloc_v2").
FAKECUDA_EXPORT uint64_t fakecuda_calls(const char* function);

// The same of another process, or of one that has ended, by its file in the folder FAKECUDA_STATE
// (<pid>.fakecuda). 0, or -1 where it can't be read or isn't such a file.
FAKECUDA_EXPORT int fakecuda_read_counters(const char* file, fakecuda_counters* counters);
FAKECUDA_EXPORT uint64_t fakecuda_read_calls(const char* file, const char* function);

// What the process has and hasn't given back.
typedef struct fakecuda_live {
  uint64_t allocations;       // of cuMemAlloc
  uint64_t physical_handles;  // of cuMemCreate, cuMemImportFromShareableHandle,
                              // cuMemRetainAllocationHandle
  uint64_t mappings;          // of cuMemMap
  uint64_t reservations;      // of cuMemAddressReserve
  uint64_t imports;           // blocks open by cuIpcOpenMemHandle
  uint64_t pooled;            // allocations from pools
  uint64_t host_allocations, host_registrations;
  uint64_t streams, events, pools, contexts;
} fakecuda_live;

FAKECUDA_EXPORT void fakecuda_get_live(fakecuda_live* live);
// Of another process, also of one that was killed. 0 or -1.
FAKECUDA_EXPORT int fakecuda_read_live(const char* file, fakecuda_live* live);

// Reports: undefined behaviour, unordered access, leaks. One line each. Copies up to `size` bytes
// with a final NUL and returns the length of the whole text without it.
FAKECUDA_EXPORT size_t fakecuda_reports(char* text, size_t size);
FAKECUDA_EXPORT size_t fakecuda_read_reports(const char* file, char* text, size_t size);
FAKECUDA_EXPORT void fakecuda_clear_reports(void);

// Runs all that is enqueued in this process and can run, whatever the scheduler would wait for.
// Returns the number of operations that still wait (for an event of another process, say).
FAKECUDA_EXPORT uint64_t fakecuda_advance(void);
// Operations that are enqueued and not complete.
FAKECUDA_EXPORT uint64_t fakecuda_pending(void);

// Of the event that a query of this process last found complete: when it became so, and when the
// query saw it. CLOCK_MONOTONIC, in nanoseconds.
FAKECUDA_EXPORT void fakecuda_seen_completion(uint64_t* completed, uint64_t* seen);

// Replaces the faults of FAKECUDA_FAIL in this process; NULL or "" for none. 0, or -1 for a text
// that isn't understood.
FAKECUDA_EXPORT int fakecuda_fail(const char* faults);

// An opaque operation on a stream (a CUstream), as a kernel's launch is one: it reads and writes
// the ranges named (device addresses and bytes; count 0: unknown), computes nothing, and is checked
// and ordered like any other. For a fake runtime.
FAKECUDA_EXPORT int fakecuda_launch(void* stream, const char* name, const uint64_t* read,
                                    const uint64_t* read_bytes, size_t reads,
                                    const uint64_t* written, const uint64_t* written_bytes,
                                    size_t writes);

#ifdef __cplusplus
}
#endif
