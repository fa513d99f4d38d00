#include "driver_call.h"

#include <tensorferry/cuda/gpu_error.h>

#include <algorithm>
#include <array>
#include <string>

namespace tensorferry::cuda {
namespace {

// Errors of the device after which "the process must be terminated and relaunched", and those that
// say that the context is gone.
constexpr std::array kSticky = {214, 220, 226, 700, 702, 709, 710, 714,
                                715, 716, 717, 718, 719, 721, 805, 810};

GpuErrorKind kind_of(int code) {
  if (is_sticky(code)) return GpuErrorKind::Sticky;
  if (code >= abi::kFirstCapture && code <= abi::kLastCapture) return GpuErrorKind::CaptureActive;
  switch (code) {
    case abi::kOutOfMemory:
      return GpuErrorKind::OutOfDeviceMemory;
    case abi::kNotInitialized:
      return GpuErrorKind::Forked;
    case abi::kStubLibrary:
      return GpuErrorKind::StubLibrary;
    case abi::kNoDevice:
      return GpuErrorKind::NoDevice;
    case abi::kPeerAccessUnsupported:
    case abi::kTooManyPeers:
      return GpuErrorKind::P2pUnavailable;
    case abi::kNotPermitted:
    case abi::kNotSupported:
      return GpuErrorKind::Unsupported;
    default:
      return GpuErrorKind::Driver;
  }
}

std::string_view hint(GpuErrorKind kind) {
  switch (kind) {
    case GpuErrorKind::Forked:
      return ": CUDA can't be used in a process that was forked from one that used it; start "
             "processes by \"spawn\" (multiprocessing.set_start_method) or before CUDA is used";
    case GpuErrorKind::StubLibrary:
      return ": the CUDA toolkit's stubs/libcuda.so was found in the driver's place; take its "
             "folder out of LD_LIBRARY_PATH";
    case GpuErrorKind::Sticky:
      return ": an earlier kernel or copy failed and broke this process's CUDA context; the "
             "process "
             "has to be restarted";
    case GpuErrorKind::P2pUnavailable:
      return ": the two devices can't reach each other's memory";
    case GpuErrorKind::CaptureActive:
      return ": a CUDA graph is being captured, which this call may not join";
    default:
      return "";
  }
}

}  // namespace

bool is_sticky(int code) noexcept { return std::ranges::find(kSticky, code) != kSticky.end(); }

std::unexpected<Error> driver_failure(const char* call, int code, const DriverApi* api) {
  const char* name = nullptr;
  if (api && !forked_after_cuda()) {
    if (auto* get_name = function_of<"cuGetErrorName">(*api)) get_name(code, &name);
  }
  const GpuErrorKind kind = kind_of(code);
  std::string message;
  if (kind == GpuErrorKind::Sticky) message = "(" + std::to_string(code) + "): ";
  message +=
      std::string(call) + ": " + (name ? name : "CUDA error") + " (" + std::to_string(code) + ")";
  return gpu_failure(kind, message.append(hint(kind)));
}

}  // namespace tensorferry::cuda
