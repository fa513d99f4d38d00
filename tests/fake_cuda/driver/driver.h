// The emulated driver of this process: all its parts under one lock.
#pragma once

#include "address_space.h"
#include "context.h"
#include "device.h"
#include "engine.h"
#include "handles.h"
#include "host_memory.h"
#include "settings.h"
#include "system_page.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace fakecuda {

struct Pool;
struct Graph;

struct Driver {
  explicit Driver(Settings read) : settings(std::move(read)), engine(settings, system) {}

  Settings settings;
  std::uint32_t pid = 0;  // who called cuInit
  std::mutex mutex;       // guards all below; never held while an operation runs
  System system;
  std::vector<Device> devices;
  Handles<CUcontext, Context> contexts;
  Handles<CUstream, Stream> streams;
  Handles<CUevent, Event> events;
  Handles<CUmemGenericAllocationHandle, Physical> physicals;
  Handles<CUmemoryPool, Pool> pools;
  Handles<CUgraph, Graph> graphs;
  Handles<CUgraphExec, Graph> graph_execs;
  CUmemoryPool host_pool = nullptr;  // the default one
  AddressSpace space;
  HostMemory host;
  Engine engine;
};

// Only after cuInit has made it. It is never destroyed: libraries call the driver until the very
// end.
Driver& driver();

// Makes it; false: it was there.
CUresult initialise();
bool is_initialised();

}  // namespace fakecuda
