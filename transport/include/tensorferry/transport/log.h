// Where log lines go: one interface, passed in by whoever wires a program together.
#pragma once

#include <tensorferry/transport/protocol.h>

#include <cstdint>
#include <memory>
#include <string_view>

namespace tensorferry {

using protocol::LogLevel;

struct LogRecord {
  LogLevel level = LogLevel::Info;
  std::string_view file;  // of the source or the model.py; may be empty
  std::uint32_t line = 0;
  std::string_view source;  // "model/instance", "stdout of ...", or empty
  std::string_view text;
};

// Thread-safe; never throws. Views are valid during the call.
class Logger {
 public:
  virtual ~Logger() = default;
  virtual void write(const LogRecord& record) noexcept = 0;

  void info(std::string_view source, std::string_view text) noexcept {
    write({LogLevel::Info, {}, 0, source, text});
  }
  void warning(std::string_view source, std::string_view text) noexcept {
    write({LogLevel::Warning, {}, 0, source, text});
  }
  void error(std::string_view source, std::string_view text) noexcept {
    write({LogLevel::Error, {}, 0, source, text});
  }
};

// Lines to stderr as "2026-11-23T01:29:32.872Z I [source] text".
std::shared_ptr<Logger> stderr_logger(LogLevel at_least = LogLevel::Info);
// Drops everything.
std::shared_ptr<Logger> null_logger();

}  // namespace tensorferry
