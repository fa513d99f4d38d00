// A library to be preloaded (LD_PRELOAD) into a server and its stubs where the kernel's own counter
// of system calls can't be used: it counts the calls of libc's wrappers that the hot path could
// make. Our futexes go through syscall(). What libc does inside itself (a contended mutex) is not
// seen: that is said beside the figures.
//
// Each process writes to $TENSORFERRY_CALL_COUNTS/<pid>, three 64-bit counters: futex (and any
// other syscall()), sched_yield, input and output.
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace {

struct Counters {
  std::atomic<std::uint64_t> syscalls, yields, transfers;
};

Counters unseen;
Counters* counters = &unseen;

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

__attribute__((constructor)) void open_counters() {
  const char* folder = std::getenv("TENSORFERRY_CALL_COUNTS");
  if (!folder) return;
  const std::string path = std::string(folder) + "/" + std::to_string(::getpid());
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (::ftruncate(fd, sizeof(Counters)) == 0) {
    void* memory = ::mmap(nullptr, sizeof(Counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory != MAP_FAILED) counters = static_cast<Counters*>(memory);
  }
  ::close(fd);
}

void count(std::atomic<std::uint64_t>& one) { one.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

extern "C" {

__attribute__((visibility("default"))) long syscall(long number, ...) {
  static auto* real = next<long(long, ...)>("syscall");
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  count(counters->syscalls);
  return real(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
              arguments[5]);
}

__attribute__((visibility("default"))) int sched_yield() noexcept {
  static auto* real = next<int()>("sched_yield");
  count(counters->yields);
  return real();
}

__attribute__((visibility("default"))) ssize_t read(int fd, void* to, size_t bytes) {
  static auto* real = next<ssize_t(int, void*, size_t)>("read");
  count(counters->transfers);
  return real(fd, to, bytes);
}

__attribute__((visibility("default"))) ssize_t write(int fd, const void* from, size_t bytes) {
  static auto* real = next<ssize_t(int, const void*, size_t)>("write");
  count(counters->transfers);
  return real(fd, from, bytes);
}

__attribute__((visibility("default"))) ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static auto* real = next<ssize_t(int, const msghdr*, int)>("sendmsg");
  count(counters->transfers);
  return real(fd, message, flags);
}

__attribute__((visibility("default"))) ssize_t recvmsg(int fd, msghdr* message, int flags) {
  static auto* real = next<ssize_t(int, msghdr*, int)>("recvmsg");
  count(counters->transfers);
  return real(fd, message, flags);
}

__attribute__((visibility("default"))) int poll(pollfd* fds, nfds_t count_of_fds, int timeout) {
  static auto* real = next<int(pollfd*, nfds_t, int)>("poll");
  count(counters->transfers);
  return real(fds, count_of_fds, timeout);
}

}  // extern "C"
