// How tensors of a GPU get to a stub and back: the best of these rungs that was seen to work
// between the two processes. Attributes only tell which are worth trying: a probe decides.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tensorferry::cuda {

// The wire carries the values. From best to worst.
enum class Rung : std::uint8_t {
  Vmm = 0,            // memory as descriptors, interprocess events: no host wait
  LegacyIpc = 1,      // memory as 64-byte handles, interprocess events: no host wait
  NoEvents = 2,       // shared memory without events: the producer waits until its work is done
  PinnedStaging = 3,  // through pinned host memory
  Pageable = 4,       // through ordinary host memory
  NoGpu = 5,          // tensors arrive on the CPU
};
inline constexpr std::size_t kRungs = 6;
std::string_view to_string(Rung rung) noexcept;  // "vmm", "legacy_ipc", "no_events", ...
bool is_rung(std::uint8_t value) noexcept;
// True where both processes map the same device memory.
constexpr bool shares_device_memory(Rung rung) noexcept { return rung <= Rung::NoEvents; }
constexpr bool has_events(Rung rung) noexcept { return rung <= Rung::LegacyIpc; }

// What a user asked for: TENSORFERRY_GPU_TRANSPORT, in the environment or as a model's parameter.
enum class GpuTransport : std::uint8_t { Auto, Vmm, Ipc, Staging, Off };
std::string_view to_string(GpuTransport transport) noexcept;
// "auto", "vmm", "ipc", "staging", "off"; empty is auto. Error: InvalidArgument.
Result<GpuTransport> gpu_transport_from_string(std::string_view text);
// TENSORFERRY_GPU_TRANSPORT of this process.
Result<GpuTransport> gpu_transport_from_environment();

// One way of sharing memory that is worth a probe, and with events or without.
struct Attempt {
  Rung rung = Rung::Vmm;
  ShareMode mode = ShareMode::Vmm;
  bool events = true;
};

// What is tried in this order on the device, and, for what is not, why. When all attempts have
// failed, `last` is what remains.
struct Plan {
  std::vector<Attempt> attempts;
  Rung last = Rung::PinnedStaging;
  std::string
      reason;  // why better rungs than the first attempt (or `last`) aren't tried; may be empty
};
// By what is asked for and by the device's attributes. No driver call.
Plan plan_rungs(const Device& device, GpuTransport asked);

// The rung that was chosen, and why: for the log, doctor, statistics and metrics.
struct RungChoice {
  Rung rung = Rung::NoGpu;
  std::string reason;
};
// Follows a plan: tell it how each attempt went, in order.
class RungLadder {
 public:
  explicit RungLadder(Plan plan) : plan_(std::move(plan)) {}
  // What to try next; nullptr when a choice is made.
  const Attempt* next() const noexcept;
  void worked();
  void failed(const Error& why);
  // What is chosen once next() is nullptr.
  RungChoice choice() const;

 private:
  Plan plan_;
  std::size_t at_ = 0;
  bool found_ = false;
  std::string failures_;
};

}  // namespace tensorferry::cuda
