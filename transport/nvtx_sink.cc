#include "nvtx_sink.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

namespace tensorferry::nvtx_sink {
namespace {

// Constant after start(). Names are registered, so that a range carries a number and no text.
nvtxDomainHandle_t domain = nullptr;
std::array<nvtxStringHandle_t, kPhaseNames.size()> names{};

nvtxEventAttributes_t attributes(Phase phase, std::uint64_t number) noexcept {
  nvtxEventAttributes_t event{};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = names[static_cast<std::size_t>(phase)];
  event.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
  event.payload.ullValue = number;
  return event;
}

}  // namespace

bool is_built() noexcept { return true; }

bool start() noexcept {
  domain = nvtxDomainCreateA("tensorferry");
  if (!domain) return false;  // there is no tool
  for (std::size_t i = 0; i < names.size(); ++i)
    names[i] = nvtxDomainRegisterStringA(domain, kPhaseNames[i]);
  return true;
}

void push(Phase phase, std::uint64_t number) noexcept {
  const auto event = attributes(phase, number);
  (void)nvtxDomainRangePushEx(domain, &event);
}

void pop() noexcept { (void)nvtxDomainRangePop(domain); }

std::uint64_t begin(Phase phase, std::uint64_t number) noexcept {
  const auto event = attributes(phase, number);
  return nvtxDomainRangeStartEx(domain, &event);
}

void end(std::uint64_t range) noexcept { nvtxDomainRangeEnd(domain, range); }

}  // namespace tensorferry::nvtx_sink

#else

namespace tensorferry::nvtx_sink {

bool is_built() noexcept { return false; }
bool start() noexcept { return false; }
void push(Phase, std::uint64_t) noexcept {}
void pop() noexcept {}
std::uint64_t begin(Phase, std::uint64_t) noexcept { return 0; }
void end(std::uint64_t) noexcept {}

}  // namespace tensorferry::nvtx_sink

#endif
