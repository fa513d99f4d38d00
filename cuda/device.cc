#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/gpu_error.h>

#include <algorithm>

#include "driver_call.h"

namespace tensorferry::cuda {
namespace {

constexpr std::string_view kHex = "0123456789abcdef";
// Bytes before which the text form has a hyphen.
constexpr bool hyphen_before(std::size_t byte) {
  return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

int hex_digit(char c) {
  const auto at = kHex.find(static_cast<char>(c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c));
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

// A driver that doesn't know the attribute answers with an error.
bool attribute(int which, int device) {
  int value = 0;
  return raw_call<"cuDeviceGetAttribute">(&value, which, device) == abi::kSuccess && value != 0;
}

Result<Device> describe(int ordinal) {
  Device device{.ordinal = ordinal, .uuid = {}, .attributes = {}};
  int handle = 0;
  if (auto done = call<"cuDeviceGet">(&handle, ordinal); !done)
    return std::unexpected(done.error());
  if (auto done = call<"cuDeviceGetUuid_v2">(&device.uuid, handle); !done)
    return std::unexpected(done.error());
  device.attributes = {.virtual_memory = attribute(abi::kVirtualMemorySupported, handle),
                       .posix_fd_handles = attribute(abi::kPosixFdSupported, handle),
                       .ipc_events = attribute(abi::kIpcEventSupported, handle),
                       .host_register = attribute(abi::kHostRegisterSupported, handle),
                       .unified_addressing = attribute(abi::kUnifiedAddressing, handle),
                       .integrated = attribute(abi::kIntegrated, handle)};
  return device;
}

std::string visible(const std::vector<Device>& all) {
  if (all.empty()) return "no device is visible (see CUDA_VISIBLE_DEVICES)";
  std::string text = "visible are";
  for (const Device& device : all)
    text += " " + std::to_string(device.ordinal) + " = " + to_string(device.uuid);
  return text;
}

}  // namespace

std::string to_string(const Uuid& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (hyphen_before(i)) text += '-';
    text += kHex[uuid.bytes[i] >> 4];
    text += kHex[uuid.bytes[i] & 15];
  }
  return text;
}

Result<Uuid> uuid_from_string(std::string_view text) {
  const auto wrong = [&] {
    return failure(ErrorCode::InvalidArgument,
                   "\"" + std::string(text) + "\" is no GPU UUID (GPU-01234567-89ab-...)");
  };
  std::string_view rest = text;
  if (rest.starts_with("GPU-") || rest.starts_with("MIG-")) rest.remove_prefix(4);
  Uuid uuid;
  for (std::size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (hyphen_before(i)) {
      if (!rest.starts_with('-')) return wrong();
      rest.remove_prefix(1);
    }
    if (rest.size() < 2) return wrong();
    const int high = hex_digit(rest[0]);
    const int low = hex_digit(rest[1]);
    if (high < 0 || low < 0) return wrong();
    uuid.bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
    rest.remove_prefix(2);
  }
  if (!rest.empty()) return wrong();
  return uuid;
}

Result<std::vector<Device>> devices() {
  auto driver = Driver::get();
  if (!driver) return std::unexpected(driver.error());
  std::vector<Device> all;
  for (int ordinal = 0; ordinal < (*driver)->info().devices; ++ordinal) {
    auto device = describe(ordinal);
    if (!device) return std::unexpected(device.error());
    all.push_back(*device);
  }
  return all;
}

Result<Device> device_by_ordinal(int ordinal) {
  auto all = devices();
  if (!all) return std::unexpected(all.error());
  if (ordinal >= 0 && static_cast<std::size_t>(ordinal) < all->size())
    return (*all)[static_cast<std::size_t>(ordinal)];
  return gpu_failure(GpuErrorKind::NoDevice,
                     "there is no device " + std::to_string(ordinal) + ": " + visible(*all));
}

Result<Device> device_by_uuid(const Uuid& uuid) {
  auto all = devices();
  if (!all) return std::unexpected(all.error());
  const auto found = std::ranges::find(*all, uuid, &Device::uuid);
  if (found != all->end()) return *found;
  return gpu_failure(GpuErrorKind::NoDevice, "this process doesn't see the device " +
                                                 to_string(uuid) + ": " + visible(*all));
}

Result<bool> can_access_peer(const Device& from, const Device& to) {
  if (from.ordinal == to.ordinal) return true;
  int can = 0;
  if (auto done = call<"cuDeviceCanAccessPeer">(&can, from.ordinal, to.ordinal); !done)
    return std::unexpected(done.error());
  return can != 0;
}

}  // namespace tensorferry::cuda
