#include <tensorferry/transport/error.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tensorferry {

std::string_view to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::Unknown:
      return "UNKNOWN";
    case ErrorCode::Internal:
      return "INTERNAL";
    case ErrorCode::NotFound:
      return "NOT_FOUND";
    case ErrorCode::InvalidArgument:
      return "INVALID_ARG";
    case ErrorCode::Unavailable:
      return "UNAVAILABLE";
    case ErrorCode::Unsupported:
      return "UNSUPPORTED";
    case ErrorCode::AlreadyExists:
      return "ALREADY_EXISTS";
    case ErrorCode::Cancelled:
      return "CANCELLED";
    case ErrorCode::OutOfSharedMemory:
      return "OUT_OF_SHARED_MEMORY";
    case ErrorCode::DeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case ErrorCode::StubDied:
      return "STUB_DIED";
    case ErrorCode::Protocol:
      return "PROTOCOL";
    case ErrorCode::System:
      return "SYSTEM";
    case ErrorCode::Closed:
      return "CLOSED";
    case ErrorCode::QueueFull:
      return "QUEUE_FULL";
  }
  return "UNKNOWN";
}

ErrorCode triton_code(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::OutOfSharedMemory:
    case ErrorCode::StubDied:
    case ErrorCode::Closed:
    case ErrorCode::QueueFull:
      return ErrorCode::Unavailable;
    case ErrorCode::DeadlineExceeded:
      return ErrorCode::Cancelled;
    case ErrorCode::Protocol:
    case ErrorCode::System:
      return ErrorCode::Internal;
    default:
      return code;
  }
}

bool is_error_code(std::uint8_t value) noexcept {
  return value <= static_cast<std::uint8_t>(ErrorCode::Cancelled) ||
         (value >= static_cast<std::uint8_t>(ErrorCode::OutOfSharedMemory) &&
          value <= static_cast<std::uint8_t>(ErrorCode::QueueFull));
}

std::string Error::describe() const {
  std::string text;
  if (!context.model.empty()) text += "model '" + context.model + "'";
  if (!context.instance.empty()) {
    if (!text.empty()) text += ", ";
    text += "instance '" + context.instance + "'";
  }
  if (!context.request_id.empty()) {
    if (!text.empty()) text += ", ";
    text += "request '" + context.request_id + "'";
  }
  if (!text.empty()) text += ": ";
  return text + message;
}

std::unexpected<Error> failure(ErrorCode code, std::string message) {
  return std::unexpected(Error{code, std::move(message), {}});
}

std::unexpected<Error> system_failure(std::string what, int error_number) {
  char buffer[128];
  // GNU strerror_r: may return a static string instead of filling the buffer.
  what += ": ";
  what += strerror_r(error_number, buffer, sizeof buffer);
  return failure(ErrorCode::System, std::move(what));
}

void expects(bool holds, const char* what, std::source_location where) noexcept {
  if (holds) [[likely]]
    return;
  std::fprintf(stderr, "tensorferry: %s:%u: broken invariant: %s\n", where.file_name(),
               static_cast<unsigned>(where.line()), what);
  std::abort();
}

}  // namespace tensorferry
