#include "device.h"

#include "text.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace fakecuda {
namespace {

constexpr int kHostMemoryPoolsSupported = 144;  // named since the headers of 13.0

const std::map<int, int>& common_attributes() {
  static const auto* attributes = new std::map<int, int>{
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_PITCH, 2147483647},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
      {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
      {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
      {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
      {CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512},
      {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2619000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 52428800},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
      {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
      {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
      {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
      {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1},
      {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448},
      {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, 32768000},
      {CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE, 134217728},
      {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
      {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 1},
      {kHostMemoryPoolsSupported, 1},
  };
  return *attributes;
}

// The last attribute that a driver of that version knows.
int last_attribute(int version) {
  if (version >= 12080)
    return std::max<int>(CU_DEVICE_ATTRIBUTE_MAX - 1, kHostMemoryPoolsSupported);
  if (version >= 12000) return CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED;
  return version >= 11030 ? CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES
                          : CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED;
}

// "3", "GPU-faceb00c" (any prefix of a UUID that fits one device only); -1: none.
int match_device(const std::string& item, int devices) {
  if (auto number = parse_number(item))
    return *number < static_cast<std::uint64_t>(devices) ? static_cast<int>(*number) : -1;
  int found = -1;
  if (!item.starts_with("GPU-")) return -1;
  for (int i = 0; i < devices; ++i) {
    if (!uuid_text(uuid_of(i)).starts_with(item)) continue;
    if (found >= 0) return -1;
    found = i;
  }
  return found;
}

Device make_device(int physical) {
  Device device;
  device.physical = physical;
  device.uuid = uuid_of(physical);
  return device;
}

}  // namespace

CUuuid uuid_of(int physical) {
  const unsigned char bytes[16] = {static_cast<unsigned char>(0xfa + physical),
                                   0xce,
                                   0xb0,
                                   0x0c,
                                   0xca,
                                   0xfe,
                                   0x40,
                                   0x00,
                                   0x80,
                                   0x00,
                                   0xfe,
                                   0x77,
                                   0x1e,
                                   0x5d,
                                   0x0d,
                                   static_cast<unsigned char>(physical)};
  CUuuid uuid;
  std::memcpy(uuid.bytes, bytes, sizeof(bytes));
  return uuid;
}

std::string uuid_text(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

std::vector<Device> visible_devices(const Settings& settings) {
  std::vector<Device> devices;
  if (!settings.has_visible_devices) {
    for (int i = 0; i < settings.devices; ++i) devices.push_back(make_device(i));
    return devices;
  }
  for (const auto& item : split(settings.visible_devices, ',')) {
    const int physical = match_device(item, settings.devices);
    if (physical < 0) break;  // as documented: those before the first invalid one are visible
    const bool twice = std::any_of(devices.begin(), devices.end(), [&](const Device& device) {
      return device.physical == physical;
    });
    if (twice) return {};
    devices.push_back(make_device(physical));
  }
  return devices;
}

std::optional<int> device_attribute(const Settings& settings, int ordinal, int physical,
                                    int attribute) {
  if (auto found = settings.attributes.find({ordinal, attribute});
      found != settings.attributes.end())
    return found->second;
  const auto& can = settings.abilities;
  if (attribute < 1 || attribute > last_attribute(can.version)) return std::nullopt;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return physical + 1;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      return can.claims_vmm_fd;
    case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
      return can.claims_vmm_fd ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0;
    case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
      return can.claims_event_ipc;
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
      return can.claims_host_register;
    default:
      break;
  }
  const auto found = common_attributes().find(attribute);
  return found == common_attributes().end() ? 0 : found->second;
}

bool can_access_peer(const Settings& settings, int from, int to) {
  if (from == to) return false;
  const auto found = settings.peers.find({from, to});
  return found == settings.peers.end() ? settings.abilities.peer_access : found->second;
}

}  // namespace fakecuda
