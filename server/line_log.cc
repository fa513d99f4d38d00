#include "line_log.h"

#include <unistd.h>

#include <cerrno>

namespace tensorferry::server {

LineLog::LineLog(std::shared_ptr<Logger> logger, LogLevel level, std::string source)
    : logger_(std::move(logger)), level_(level), source_(std::move(source)) {}

bool LineLog::read_from(int fd) {
  char buffer[16 << 10];
  for (std::size_t total = 0; total < kBytesPerCall;) {
    ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    total += static_cast<std::size_t>(got);
    std::string_view rest(buffer, static_cast<std::size_t>(got));
    for (std::size_t end; (end = rest.find('\n')) != std::string_view::npos;
         rest.remove_prefix(end + 1)) {
      partial_ += rest.substr(0, end);
      line(partial_);
      partial_.clear();
    }
    partial_ += rest;
    if (partial_.size() > kMaxLineBytes) finish();
  }
  return true;
}

void LineLog::finish() {
  if (partial_.empty()) return;
  line(partial_);
  partial_.clear();
}

void LineLog::line(std::string_view text) {
  logger_->write({level_, {}, 0, source_, text});
  last_.emplace_back(text);
  if (last_.size() > kLastLines) last_.pop_front();
}

std::string LineLog::last_words() const {
  std::string text;
  for (const std::string& line : last_) text += (text.empty() ? "" : "\n") + line;
  return text;
}

}  // namespace tensorferry::server
