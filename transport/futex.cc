#include "futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace tensorferry {
namespace {

int operation(int base, FutexScope scope) {
  return scope == FutexScope::Private ? base | FUTEX_PRIVATE_FLAG : base;
}

}  // namespace

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, const Deadline& deadline,
                FutexScope scope) noexcept {
  timespec until{};
  if (deadline) {
    auto since =
        std::chrono::duration_cast<std::chrono::nanoseconds>(deadline->time_since_epoch()).count();
    until.tv_sec = since / 1'000'000'000;
    until.tv_nsec = since % 1'000'000'000;
  }
  // The bitset form takes an absolute time of CLOCK_MONOTONIC.
  ::syscall(SYS_futex, &word, operation(FUTEX_WAIT_BITSET, scope), expected,
            deadline ? &until : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(std::atomic<std::uint32_t>& word, int count, FutexScope scope) noexcept {
  ::syscall(SYS_futex, &word, operation(FUTEX_WAKE, scope), count, nullptr, nullptr, 0);
}

}  // namespace tensorferry
