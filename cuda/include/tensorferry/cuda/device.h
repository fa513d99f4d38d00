// The GPUs that this process sees. A device's ordinal is this process's own: between processes it
// is named by its UUID, always.
#pragma once

#include <tensorferry/transport/error.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tensorferry::cuda {

struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  friend auto operator<=>(const Uuid&, const Uuid&) = default;
};
// "GPU-01234567-89ab-cdef-0123-456789abcdef", as CUDA_VISIBLE_DEVICES takes it.
std::string to_string(const Uuid& uuid);
// The same backwards; "MIG-..." too. Error: InvalidArgument.
Result<Uuid> uuid_from_string(std::string_view text);

// What a device says that it can do. On some platforms it says so and the call fails: a rung is
// chosen by a probe (probe.h); these tell which ones are worth one. A driver that doesn't know the
// attribute counts as "no".
struct DeviceAttributes {
  bool virtual_memory = false;      // cuMemCreate and cuMemMap
  bool posix_fd_handles = false;    // ... exported as descriptors
  bool ipc_events = false;          // interprocess events
  bool host_register = false;       // pinning our shared memory
  bool unified_addressing = false;  // one address space of host and devices
  bool integrated = false;          // shares the host's memory
};

struct Device {
  int ordinal = 0;  // in this process
  Uuid uuid;
  DeviceAttributes attributes;
};

// By ordinal; loads the driver. They make no context. Thread-safe; a few driver calls each.
// Errors: those of Driver::get(); gpu_no_device, naming what is visible.
Result<std::vector<Device>> devices();
Result<Device> device_by_ordinal(int ordinal);
Result<Device> device_by_uuid(const Uuid& uuid);
// True when `from` can map and copy memory of `to` directly; they may be the same.
Result<bool> can_access_peer(const Device& from, const Device& to);

}  // namespace tensorferry::cuda
