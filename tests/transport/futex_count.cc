// Stands before the C library's syscall() in this executable, and hands everything on.
#include "futex_count.h"

#include <dlfcn.h>
#include <sys/syscall.h>

#include <cstdarg>

namespace {
thread_local std::size_t calls = 0;
}  // namespace

extern "C" long syscall(long number, ...) noexcept {
  using Real = long (*)(long, ...);
  // No static of a function: its guard might call this.
  const auto real = reinterpret_cast<Real>(::dlsym(RTLD_NEXT, "syscall"));
  if (number == SYS_futex) ++calls;
  // As the C library does: all six, given or not.
  long arguments[6];
  va_list list;
  va_start(list, number);
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  return real(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
              arguments[5]);
}

namespace tensorferry {

std::size_t futex_calls() noexcept { return calls; }

}  // namespace tensorferry
