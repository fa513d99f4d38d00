#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/rung.h>

#include <array>
#include <cstdlib>

namespace tensorferry::cuda {
namespace {

constexpr std::array<std::string_view, kRungs> kRungNames = {
    "vmm", "legacy_ipc", "no_events", "pinned_staging", "pageable", "no_gpu"};
constexpr std::array<std::string_view, 5> kTransportNames = {"auto", "vmm", "ipc", "staging",
                                                             "off"};

void add_reason(std::string& text, const std::string& more) {
  if (!text.empty()) text += "; ";
  text += more;
}

// What remains where no device memory can be shared.
Rung staging(const Device& device) {
  return device.attributes.host_register ? Rung::PinnedStaging : Rung::Pageable;
}

}  // namespace

std::string_view to_string(Rung rung) noexcept {
  return kRungNames[static_cast<std::size_t>(rung)];
}
bool is_rung(std::uint8_t value) noexcept { return value < kRungs; }

std::string_view to_string(GpuTransport transport) noexcept {
  return kTransportNames[static_cast<std::size_t>(transport)];
}

Result<GpuTransport> gpu_transport_from_string(std::string_view text) {
  if (text.empty()) return GpuTransport::Auto;
  for (std::size_t i = 0; i < kTransportNames.size(); ++i)
    if (kTransportNames[i] == text) return static_cast<GpuTransport>(i);
  return failure(ErrorCode::InvalidArgument, "TENSORFERRY_GPU_TRANSPORT is \"" + std::string(text) +
                                                 "\"; it can be auto, vmm, ipc, staging or off");
}

Result<GpuTransport> gpu_transport_from_environment() {
  const char* value = std::getenv("TENSORFERRY_GPU_TRANSPORT");
  return gpu_transport_from_string(value ? value : "");
}

Plan plan_rungs(const Device& device, GpuTransport asked) {
  const DeviceAttributes& can = device.attributes;
  Plan plan;
  plan.last = staging(device);
  if (asked != GpuTransport::Auto)
    plan.reason = "TENSORFERRY_GPU_TRANSPORT=" + std::string(to_string(asked));
  if (asked == GpuTransport::Off) plan.last = Rung::NoGpu;
  if (asked == GpuTransport::Off || asked == GpuTransport::Staging) return plan;

  std::vector<Attempt> without_events;
  const auto add = [&](Rung rung, ShareMode mode) {
    if (can.ipc_events) plan.attempts.push_back({rung, mode, true});
    without_events.push_back({Rung::NoEvents, mode, false});
  };
  if (asked != GpuTransport::Ipc) {
    if (can.virtual_memory && can.posix_fd_handles)
      add(Rung::Vmm, ShareMode::Vmm);
    else
      add_reason(plan.reason, "the device can't export memory as a descriptor");
  }
  if (asked != GpuTransport::Vmm) add(Rung::LegacyIpc, ShareMode::LegacyIpc);
  if (!can.ipc_events) add_reason(plan.reason, "the device has no interprocess events");
  plan.attempts.insert(plan.attempts.end(), without_events.begin(), without_events.end());
  if (!can.host_register) add_reason(plan.reason, "host memory can't be pinned");
  return plan;
}

const Attempt* RungLadder::next() const noexcept {
  return found_ || at_ >= plan_.attempts.size() ? nullptr : &plan_.attempts[at_];
}

void RungLadder::worked() { found_ = true; }

void RungLadder::failed(const Error& why) {
  const Attempt& attempt = plan_.attempts[at_++];
  std::string name(to_string(attempt.rung));
  if (!attempt.events) name += attempt.mode == ShareMode::Vmm ? " (vmm)" : " (legacy_ipc)";
  add_reason(failures_, name + " failed: " + why.message);
}

RungChoice RungLadder::choice() const {
  RungChoice choice;
  choice.rung = found_ ? plan_.attempts[at_].rung : plan_.last;
  choice.reason = plan_.reason;
  if (!failures_.empty()) add_reason(choice.reason, failures_);
  if (choice.reason.empty()) choice.reason = "the probe succeeded";
  return choice;
}

}  // namespace tensorferry::cuda
