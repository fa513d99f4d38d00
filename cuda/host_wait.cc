#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/counters.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/trace.h>

#include <sched.h>

#include <array>
#include <thread>

#include "poll_pacing.h"

namespace tensorferry::cuda {
namespace {

constexpr std::array<const char*, kWaitReasons> kNames = {
    "capture", "no_stream", "bare_capsule", "no_events", "staging", "host_array", "probe"};

const Counter& waits(WaitReason reason) {
  static const auto counters = [] {
    std::vector<Counter> all;
    all.reserve(kNames.size());
    for (const char* name : kNames)
      all.push_back(Counters::of_process().add("host_waits", {{"reason", name}}));
    return all;
  }();
  return counters[static_cast<std::size_t>(reason)];
}

}  // namespace

std::string_view to_string(WaitReason reason) noexcept {
  return kNames[static_cast<std::size_t>(reason)];
}

Result<void> wait_on_host(EventHandle event, WaitReason reason, const Deadline& deadline,
                          const std::function<bool()>& given_up) {
  waits(reason).add();
  Span span(Phase::WaitDevice, kOfEnclosingSpan);
  mark_host_wait(kNames[static_cast<std::size_t>(reason)]);
  const auto begin = Clock::now();
  while (true) {
    auto done = query(event);
    if (!done) return std::unexpected(done.error());
    if (*done) return {};
    if (given_up && given_up())
      return gpu_failure(GpuErrorKind::PeerDied,
                         "the process that had to finish work on the device ended");
    if (passed(deadline))
      return failure(ErrorCode::DeadlineExceeded, "the device was not done in time");
    const PollTime pause = nap(Clock::now() - begin, PollTime::zero(), kSpin);
    if (pause == PollTime::zero())
      ::sched_yield();
    else
      std::this_thread::sleep_for(pause);
  }
}

std::uint64_t host_waits(WaitReason reason) noexcept { return waits(reason).value(); }

}  // namespace tensorferry::cuda
