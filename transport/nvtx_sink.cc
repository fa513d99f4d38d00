#include "nvtx_sink.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

#include <array>
#include <cstdio>

namespace tensorferry::nvtx_sink {
namespace {

// Constant after start(). Names are registered, so that a range carries a number and no text.
nvtxDomainHandle_t domain = nullptr;
std::array<nvtxStringHandle_t, kPhaseNames.size()> names{};

// What viewers filter and colour by; NVTX counts them from 1.
enum class Category : std::uint32_t { Queue = 1, Ipc, Python, Copy, Sync };
constexpr std::array<const char*, 5> kCategoryNames{"queue", "ipc", "python", "copy", "sync"};
constexpr std::uint32_t kRed = 0xFFD62728;

Category category_of(Phase phase) noexcept {
  switch (phase) {
    case Phase::Queue:
      return Category::Queue;
    case Phase::Execute:
    case Phase::Collect:
    case Phase::Settle:
      return Category::Python;
    case Phase::CopyD2D:
    case Phase::CopyD2H:
    case Phase::CopyH2D:
      return Category::Copy;
    case Phase::WaitDevice:
    case Phase::PollDone:
      return Category::Sync;
    default:
      return Category::Ipc;
  }
}

nvtxEventAttributes_t attributes(nvtxStringHandle_t name, Category category,
                                 std::uint64_t number) noexcept {
  nvtxEventAttributes_t event{};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.category = static_cast<std::uint32_t>(category);
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = name;
  event.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
  event.payload.ullValue = number;
  return event;
}

nvtxEventAttributes_t attributes(Phase phase, std::uint64_t number) noexcept {
  return attributes(names[static_cast<std::size_t>(phase)], category_of(phase), number);
}

}  // namespace

bool is_built() noexcept { return true; }

bool start() noexcept {
  domain = nvtxDomainCreateA("tensorferry");
  if (!domain) return false;  // there is no tool
  for (std::size_t i = 0; i < names.size(); ++i)
    names[i] = nvtxDomainRegisterStringA(domain, kPhaseNames[i]);
  for (std::uint32_t i = 0; i < kCategoryNames.size(); ++i)
    nvtxDomainNameCategoryA(domain, i + 1, kCategoryNames[i]);
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

// Rare enough for a text of its own: it names the reason.
void mark_host_wait(const char* reason, std::uint64_t number) noexcept {
  char text[64];
  std::snprintf(text, sizeof text, "host_wait:%s", reason);
  auto event = attributes(nullptr, Category::Sync, number);
  event.messageType = NVTX_MESSAGE_TYPE_ASCII;
  event.message.ascii = text;
  event.colorType = NVTX_COLOR_ARGB;
  event.color = kRed;
  nvtxDomainMarkEx(domain, &event);
}

}  // namespace tensorferry::nvtx_sink

#else

namespace tensorferry::nvtx_sink {

bool is_built() noexcept { return false; }
bool start() noexcept { return false; }
void push(Phase, std::uint64_t) noexcept {}
void pop() noexcept {}
std::uint64_t begin(Phase, std::uint64_t) noexcept { return 0; }
void end(std::uint64_t) noexcept {}
void mark_host_wait(const char*, std::uint64_t) noexcept {}

}  // namespace tensorferry::nvtx_sink

#endif
