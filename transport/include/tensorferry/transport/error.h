// Errors as values: what the world does (peers, the OS, users) comes back as Result<T>; what we did
// wrong stops the program with expects().
#pragma once

#include <cstdint>
#include <expected>
#include <source_location>
#include <string>
#include <string_view>

namespace tensorferry {

// The first eight are TRITONSERVER_Error_Code, value for value, so that a model's TritonError code
// crosses unchanged. The others say more than Triton can; triton_code() folds them into the eight.
enum class ErrorCode : std::uint8_t {
  Unknown = 0,
  Internal = 1,
  NotFound = 2,
  InvalidArgument = 3,
  Unavailable = 4,
  Unsupported = 5,
  AlreadyExists = 6,
  Cancelled = 7,

  OutOfSharedMemory = 16,  // an arena's maximum, a cgroup's limit or the kernel refused more memory
  DeadlineExceeded = 17,   // the caller's own timeout passed
  StubDied = 18,           // the process that worked on the request ended
  Protocol = 19,           // the peer sent what the protocol forbids
  System = 20,             // a system call failed; the message names it and errno's text
  Closed = 21,             // the server, model or channel was shut down
  QueueFull = 22,          // backpressure: the queue limit is reached
};

// The name as users see it in `.code`, e.g. "OUT_OF_SHARED_MEMORY".
std::string_view to_string(ErrorCode code) noexcept;
// The nearest of Triton's eight codes.
ErrorCode triton_code(ErrorCode code) noexcept;
// False for a number that names no code (a peer may send any).
bool is_error_code(std::uint8_t value) noexcept;

// Where an error happened. Empty fields are unknown or don't apply.
struct ErrorContext {
  std::string model;
  std::string instance;
  std::string request_id;
};

// What went wrong: `message` is a whole sentence for a person and says what to do where that is
// known.
struct Error {
  ErrorCode code = ErrorCode::Internal;
  std::string message;
  ErrorContext context;

  // message, preceded by model, instance and request where they are known.
  std::string describe() const;
};

template <class T>
using Result = std::expected<T, Error>;

// `return failure(ErrorCode::NotFound, "...")` from any function that returns a Result.
std::unexpected<Error> failure(ErrorCode code, std::string message);
// The same for a failed system call: appends errno's text ("open /x: No such file or directory").
std::unexpected<Error> system_failure(std::string what, int error_number);

// An invariant of ours: prints file, line and `what`, and aborts when it does not hold.
void expects(bool holds, const char* what,
             std::source_location where = std::source_location::current()) noexcept;

}  // namespace tensorferry
