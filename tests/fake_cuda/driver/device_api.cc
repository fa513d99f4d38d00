// Functions that ask a device about itself.
#include "api.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

using namespace fakecuda;

namespace {

template <class Body>
CUresult with_device(const char* name, CUdevice ordinal, Body&& body) {
  return api(name, Need::Init, [&](Call& call) {
    if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    return body(call, call.driver.devices[static_cast<std::size_t>(ordinal)]);
  });
}

CUresult get_uuid(const char* name, CUuuid* uuid, CUdevice ordinal) {
  return with_device(name, ordinal, [&](Call&, Device& device) {
    if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *uuid = device.uuid;
    return CUDA_SUCCESS;
  });
}

}  // namespace

FAKECUDA_API cuDeviceGetCount(int* count) {
  return api(__func__, Need::Init, [&](Call& call) {
    if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = static_cast<int>(call.driver.devices.size());
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGet(CUdevice* device, int ordinal) {
  return with_device(__func__, ordinal, [&](Call&, Device&) {
    if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetName(char* name, int length, CUdevice ordinal) {
  return with_device(__func__, ordinal, [&](Call&, Device& device) {
    if (name == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, static_cast<std::size_t>(length), "Emulated GPU %d", device.physical);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetUuid(CUuuid* uuid, CUdevice ordinal) {
  return get_uuid(__func__, uuid, ordinal);
}
FAKECUDA_API cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice ordinal) {
  return get_uuid(__func__, uuid, ordinal);
}

FAKECUDA_API cuDeviceTotalMem_v2(size_t* bytes, CUdevice ordinal) {
  return with_device(__func__, ordinal, [&](Call& call, Device&) {
    if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *bytes = call.driver.settings.device_bytes;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice ordinal) {
  return with_device(__func__, ordinal, [&](Call& call, Device& device) {
    const auto found = device_attribute(call.driver.settings, ordinal, device.physical, attribute);
    if (value == nullptr || !found) return CUDA_ERROR_INVALID_VALUE;
    *value = *found;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceComputeCapability(int* major, int* minor, CUdevice ordinal) {
  return with_device(__func__, ordinal, [&](Call& call, Device& device) {
    const auto& settings = call.driver.settings;
    *major = device_attribute(settings, ordinal, device.physical,
                              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
                 .value_or(0);
    *minor = device_attribute(settings, ordinal, device.physical,
                              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
                 .value_or(0);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetPCIBusId(char* text, int length, CUdevice ordinal) {
  return with_device(__func__, ordinal, [&](Call&, Device& device) {
    if (text == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(text, static_cast<std::size_t>(length), "0000:%02X:00.0",
                  static_cast<unsigned>(device.physical + 1));
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  return api(__func__, Need::Init, [&](Call& call) {
    const std::string_view written = text != nullptr ? text : "";  // domain:bus:device.function
    const auto colon = written.find(':');
    unsigned bus = 0;
    if (device == nullptr || colon == std::string_view::npos || colon + 2 >= written.size())
      return CUDA_ERROR_INVALID_VALUE;
    const char* first = written.data() + colon + 1;
    if (std::from_chars(first, first + 2, bus, 16).ec != std::errc{})
      return CUDA_ERROR_INVALID_VALUE;
    const auto& devices = call.driver.devices;
    for (std::size_t i = 0; i < devices.size(); ++i) {
      if (devices[i].physical + 1 != static_cast<int>(bus)) continue;
      *device = static_cast<CUdevice>(i);
      return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_DEVICE;
  });
}

FAKECUDA_API cuDeviceCanAccessPeer(int* can, CUdevice from, CUdevice to) {
  return with_device(__func__, from, [&](Call& call, Device& device) {
    if (to < 0 || static_cast<std::size_t>(to) >= call.driver.devices.size())
      return CUDA_ERROR_INVALID_DEVICE;
    const auto& peer = call.driver.devices[static_cast<std::size_t>(to)];
    *can = can_access_peer(call.driver.settings, device.physical, peer.physical);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice from,
                                     CUdevice to) {
  return with_device(__func__, from, [&](Call& call, Device& device) {
    if (to < 0 || static_cast<std::size_t>(to) >= call.driver.devices.size() || from == to)
      return CUDA_ERROR_INVALID_DEVICE;
    const auto& peer = call.driver.devices[static_cast<std::size_t>(to)];
    const bool can = can_access_peer(call.driver.settings, device.physical, peer.physical);
    *value = attribute == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED && can;
    return CUDA_SUCCESS;
  });
}
