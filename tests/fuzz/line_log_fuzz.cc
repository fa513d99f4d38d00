// What a stub prints, in any pieces: nothing is lost, and every line is logged as one unless it is
// too long.
#include <fcntl.h>
#include <tensorferry/transport/log.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "fuzz/fuzz_input.h"
#include "line_log.h"

namespace {

using namespace tensorferry;

struct Collected : Logger {
  void write(const LogRecord& record) noexcept override {
    text += record.text;
    ++lines;
  }
  std::string text;
  std::size_t lines = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  FuzzInput input(data, size);
  auto logger = std::make_shared<Collected>();
  server::LineLog log(logger, LogLevel::Info, "stub");
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) std::abort();
  std::string printed;
  while (!input.done()) {
    // Runs of a letter, so that lines get longer than any limit.
    const std::uint8_t choice = input.byte();
    std::string piece;
    if (choice >= 250) {
      piece.assign(input.byte() * 64u, 'x');
    } else {
      const auto bytes = input.take(choice % 32);
      piece.assign(bytes.begin(), bytes.end());
    }
    if (::write(fds[1], piece.data(), piece.size()) != static_cast<ssize_t>(piece.size()))
      std::abort();
    printed += piece;
    if (!log.read_from(fds[0])) std::abort();
  }
  ::close(fds[1]);
  if (log.read_from(fds[0])) std::abort();  // the end
  ::close(fds[0]);
  log.finish();
  const auto whole = static_cast<std::size_t>(std::ranges::count(printed, '\n'));
  if (logger->lines < whole) std::abort();
  std::erase(printed, '\n');
  if (logger->text != printed) std::abort();
  if (log.last_words().size() > printed.size() + logger->lines) std::abort();
  return 0;
}
