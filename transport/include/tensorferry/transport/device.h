// Where a tensor's bytes lie.
#pragma once

#include <cstdint>

namespace tensorferry {

// Values are DLPack's DLDeviceType.
enum class DeviceKind : std::uint8_t { Cpu = 1, Cuda = 2, CudaPinned = 3 };

struct Device {
  DeviceKind kind = DeviceKind::Cpu;
  // An ordinal as the process that says it counts; on the wire the server's number for a device,
  // which it announced together with the device's UUID.
  std::int32_t id = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

constexpr bool is_device_kind(std::uint8_t value) noexcept { return value >= 1 && value <= 3; }

}  // namespace tensorferry
