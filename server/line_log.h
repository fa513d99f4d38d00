// A stub's stdout or stderr: bytes from a pipe become log lines, and the last of them are
// remembered as the process's last words.
#pragma once

#include <tensorferry/transport/log.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <string>

namespace tensorferry::server {

// One thread at a time.
class LineLog {
 public:
  // `source` tags the lines ("add_sub_0_0 stdout").
  LineLog(std::shared_ptr<Logger> logger, LogLevel level, std::string source);

  // Reads what is there without blocking; false at EOF. At most `kBytesPerCall` per call, so that a
  // model that prints without end cannot keep its supervisor busy.
  bool read_from(int fd);
  // Logs an unfinished last line.
  void finish();
  // The last lines, as they were printed.
  std::string last_words() const;

 private:
  void line(std::string_view text);

  static constexpr std::size_t kBytesPerCall = 256 << 10;
  static constexpr std::size_t kMaxLineBytes = 16 << 10;  // longer ones are cut into several
  static constexpr std::size_t kLastLines = 40;

  std::shared_ptr<Logger> logger_;
  LogLevel level_;
  std::string source_;
  std::string partial_;
  std::deque<std::string> last_;
};

}  // namespace tensorferry::server
