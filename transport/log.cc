#include <tensorferry/transport/log.h>

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <string>

namespace tensorferry {
namespace {

class StderrLogger final : public Logger {
 public:
  explicit StderrLogger(LogLevel at_least) : at_least_(at_least) {}

  void write(const LogRecord& record) noexcept override {
    if (record.level < at_least_) return;
    std::string line = timestamp();
    line += ' ';
    line += "VIWE"[static_cast<int>(record.level)];
    if (!record.file.empty())
      line += " " + std::string(record.file) + ":" + std::to_string(record.line);
    if (!record.source.empty()) line += " [" + std::string(record.source) + "]";
    line += ' ';
    line += record.text;
    line += '\n';
    // One write, so that lines of several threads don't mix.
    (void)!::write(STDERR_FILENO, line.data(), line.size());
  }

 private:
  static std::string timestamp() {
    auto now = std::chrono::system_clock::now();
    auto milliseconds =
        std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() %
        1000;
    std::time_t seconds = std::chrono::system_clock::to_time_t(now);
    std::tm utc{};
    ::gmtime_r(&seconds, &utc);
    char text[40];
    std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    std::snprintf(text + length, sizeof text - length, ".%03dZ", static_cast<int>(milliseconds));
    return text;
  }

  const LogLevel at_least_;
};

class NullLogger final : public Logger {
 public:
  void write(const LogRecord&) noexcept override {}
};

}  // namespace

std::shared_ptr<Logger> stderr_logger(LogLevel at_least) {
  return std::make_shared<StderrLogger>(at_least);
}
std::shared_ptr<Logger> null_logger() { return std::make_shared<NullLogger>(); }

}  // namespace tensorferry
