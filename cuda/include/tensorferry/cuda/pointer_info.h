// What the driver knows of an address that somebody hands us.
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <cstdint>

namespace tensorferry::cuda {

enum class MemoryKind : std::uint8_t {
  Host,     // ordinary memory: the driver doesn't know it
  Pinned,   // host memory that the driver allocated or registered
  Device,   // on one device
  Managed,  // moves between host and devices by itself
};

struct PointerInfo {
  MemoryKind kind = MemoryKind::Host;
  int ordinal = -1;  // the device it belongs to, as this process counts; -1 for Host
  // The allocation that the address is in, as mapped (of memory that is mapped in pieces: the one
  // piece). Zero for host memory.
  DevicePtr base = 0;
  std::size_t bytes = 0;
  // Names the allocation: unlike its address it is never used again in this process. 0 for Host.
  std::uint64_t buffer_id = 0;
  bool legacy_ipc = false;  // can be exported as 64 bytes
  bool posix_fd = false;    // can be exported as a descriptor
  bool from_mempool = false;
  ContextHandle context = nullptr;  // of memory that belongs to one; VMM memory doesn't
};

// Some driver calls, in the current context or in a primary one that exists already; makes none.
// Errors: those of Driver::get(); gpu_sticky, gpu_driver.
Result<PointerInfo> classify(DevicePtr address);
inline Result<PointerInfo> classify(const void* address) { return classify(device_ptr(address)); }

}  // namespace tensorferry::cuda
