#include <tensorferry/cuda/gpu_error.h>

namespace tensorferry::cuda {
namespace {

struct Meaning {
  std::string_view word;
  ErrorCode code;
};

Meaning meaning(GpuErrorKind kind) noexcept {
  using enum GpuErrorKind;
  switch (kind) {
    case Off:
      return {"gpu_off", ErrorCode::NotFound};
    case DriverMissing:
      return {"gpu_driver_missing", ErrorCode::NotFound};
    case DriverTooOld:
      return {"gpu_driver_too_old", ErrorCode::Unsupported};
    case StubLibrary:
      return {"gpu_stub_library", ErrorCode::Unsupported};
    case NoDevice:
      return {"gpu_no_device", ErrorCode::NotFound};
    case Forked:
      return {"gpu_forked", ErrorCode::Unavailable};
    case PidnsMismatch:
      return {"gpu_pidns_mismatch", ErrorCode::Unsupported};
    case P2pUnavailable:
      return {"gpu_p2p_unavailable", ErrorCode::Unsupported};
    case OutOfPool:
      return {"gpu_oom(pool)", ErrorCode::Unavailable};
    case OutOfDeviceMemory:
      return {"gpu_oom(device)", ErrorCode::Unavailable};
    case Sticky:
      return {"gpu_sticky", ErrorCode::Internal};
    case CaptureActive:
      return {"gpu_capture_active", ErrorCode::Unavailable};
    case PeerDied:
      return {"gpu_peer_died", ErrorCode::StubDied};
    case Unsupported:
      return {"gpu_unsupported", ErrorCode::Unsupported};
    case Driver:
      break;
  }
  return {"gpu_driver", ErrorCode::Internal};
}

}  // namespace

std::string_view to_string(GpuErrorKind kind) noexcept { return meaning(kind).word; }

std::unexpected<Error> gpu_failure(GpuErrorKind kind, const std::string& message) {
  const auto [word, code] = meaning(kind);
  // A sticky error says its number: "gpu_sticky(700): ...".
  const bool numbered = kind == GpuErrorKind::Sticky && message.starts_with('(');
  return failure(code, std::string(word) + (numbered ? "" : ": ") + message);
}

std::string_view gpu_word(const Error& error) noexcept {
  const std::string_view message = error.message;
  if (!message.starts_with("gpu_")) return {};
  return message.substr(0, message.find(':'));
}

bool is_gpu_error(const Error& error, GpuErrorKind kind) noexcept {
  const std::string_view word = gpu_word(error);
  const std::string_view wanted = to_string(kind);
  return word == wanted ||
         (kind == GpuErrorKind::Sticky && word.starts_with(wanted) && word[wanted.size()] == '(');
}

}  // namespace tensorferry::cuda
