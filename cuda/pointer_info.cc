#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/pointer_info.h>

#include <array>

#include "driver_call.h"

namespace tensorferry::cuda {
namespace {

// What is asked, in this order.
constexpr std::size_t kType = 0;
constexpr std::size_t kOrdinal = 1;
constexpr std::size_t kManaged = 2;
constexpr std::size_t kBufferId = 3;
constexpr std::size_t kLegacy = 4;
constexpr std::size_t kHandleTypes = 5;
constexpr std::size_t kMempool = 6;
constexpr std::size_t kContext = 7;
constexpr std::size_t kAsked = 8;
constexpr std::array<int, kAsked> kAttributes = {
    abi::kPointerMemoryType,    abi::kPointerDeviceOrdinal,    abi::kPointerIsManaged,
    abi::kPointerBufferId,      abi::kPointerLegacyIpcCapable, abi::kPointerAllowedHandleTypes,
    abi::kPointerMempoolHandle, abi::kPointerContext};

// The driver writes each as its own type, of at most eight bytes, into zeros: low bytes first.
using Answers = std::array<std::uint64_t, kAsked>;

MemoryKind kind_of(const Answers& answers) {
  if (answers[kManaged] != 0) return MemoryKind::Managed;
  if (answers[kType] == abi::kMemoryTypeDevice) return MemoryKind::Device;
  if (answers[kType] == abi::kMemoryTypeHost) return MemoryKind::Pinned;
  return MemoryKind::Host;
}

void fill(PointerInfo& info, const Answers& answers) {
  info.ordinal = static_cast<int>(static_cast<std::uint32_t>(answers[kOrdinal]));
  info.buffer_id = answers[kBufferId];
  info.legacy_ipc = answers[kLegacy] != 0;
  info.posix_fd = (answers[kHandleTypes] & abi::kHandlePosixFd) != 0;
  info.from_mempool = answers[kMempool] != 0;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver wrote a pointer there
  info.context = reinterpret_cast<ContextHandle>(static_cast<std::uintptr_t>(answers[kContext]));
}

// Asks in the current context.
Result<PointerInfo> ask(DevicePtr address) {
  Answers answers{};
  std::array<void*, kAsked> places;
  for (std::size_t i = 0; i < kAsked; ++i) places[i] = &answers[i];
  auto attributes = kAttributes;
  if (auto done = call<"cuPointerGetAttributes">(static_cast<unsigned>(kAsked), attributes.data(),
                                                 places.data(), address);
      !done)
    return std::unexpected(done.error());

  PointerInfo info;
  info.kind = kind_of(answers);
  if (info.kind == MemoryKind::Host) return info;
  fill(info, answers);
  if (info.kind == MemoryKind::Pinned) return info;
  // Not the attributes RANGE_START_ADDR and RANGE_SIZE: those are of the reserved addresses, which
  // may be more than what is mapped there.
  if (auto done = call<"cuMemGetAddressRange_v2">(&info.base, &info.bytes, address); !done)
    return std::unexpected(done.error());
  return info;
}

// A primary context that somebody in this process has made; nullptr where nobody has.
Result<ContextPtr> any_active_context() {
  auto all = devices();
  if (!all) return std::unexpected(all.error());
  for (const Device& device : *all) {
    auto active = primary_context_active(device);
    if (!active) return std::unexpected(active.error());
    if (*active) return PrimaryContext::retain(device);
  }
  return nullptr;
}

bool has_current_context() {
  ContextHandle current = nullptr;
  return raw_call<"cuCtxGetCurrent">(&current) == abi::kSuccess && current;
}

}  // namespace

Result<PointerInfo> classify(DevicePtr address) {
  if (auto driver = Driver::get(); !driver) return std::unexpected(driver.error());
  if (has_current_context()) return ask(address);
  auto context = any_active_context();
  if (!context) return std::unexpected(context.error());
  // Without any context there is no memory of the driver's in this process.
  if (!*context) return PointerInfo{};
  auto guard = ContextGuard::enter(**context);
  if (!guard) return std::unexpected(guard.error());
  return ask(address);
}

}  // namespace tensorferry::cuda
