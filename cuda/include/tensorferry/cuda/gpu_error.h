// What can go wrong with a GPU, as errors whose message begins with a stable word:
//
//   "gpu_oom(device): cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY (2) ..."
//
// The word is for programs and for searching, the rest is for people.
#pragma once

#include <tensorferry/transport/error.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace tensorferry::cuda {

enum class GpuErrorKind : std::uint8_t {
  Off,                // TENSORFERRY_CUDA=off
  DriverMissing,      // no libcuda.so.1, or none that we can use: a host without a GPU
  DriverTooOld,       // older than what we need
  StubLibrary,        // the toolkit's link-time stand-in was loaded in the driver's place
  NoDevice,           // no device is visible, or not the one that was asked for
  Forked,             // this process was forked from one that had initialised CUDA
  PidnsMismatch,      // legacy IPC needs one PID namespace
  P2pUnavailable,     // two devices can't reach each other's memory
  OutOfPool,          // "gpu_oom(pool)": the pool's maximum is reached
  OutOfDeviceMemory,  // "gpu_oom(device)"
  Sticky,             // the context is broken for good: the process has to end
  CaptureActive,      // somebody captures a graph and the call may not be made meanwhile
  PeerDied,           // the process on the other side ended
  Unsupported,        // this device or driver can't do it
  Driver,             // any other answer of the driver
};

// "gpu_oom(pool)" and so on.
std::string_view to_string(GpuErrorKind kind) noexcept;
// The ErrorCode is the kind's: NotFound for what a host without a GPU answers, Unavailable for what
// may pass, Unsupported, StubDied, Internal.
std::unexpected<Error> gpu_failure(GpuErrorKind kind, const std::string& message);
// The word at the beginning of an error's message ("gpu_oom(pool)"); empty where it has none.
std::string_view gpu_word(const Error& error) noexcept;
bool is_gpu_error(const Error& error, GpuErrorKind kind) noexcept;

}  // namespace tensorferry::cuda
