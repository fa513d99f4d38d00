// The process at the other end, by a pidfd that it sent: its end is known at once and for certain,
// where the end of a connection may only be a close().
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <tensorferry/transport/unique_fd.h>
#include <unistd.h>

namespace tensorferry {

// This process, for a peer; empty where the kernel has no pidfds (before Linux 5.3).
inline UniqueFd pidfd_of_this_process() noexcept {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
}

// True once the process has ended, and for a descriptor that is none.
inline bool has_ended(const UniqueFd& pidfd) noexcept {
  pollfd entry{pidfd.get(), POLLIN, 0};
  return !pidfd || ::poll(&entry, 1, 0) != 0;
}

}  // namespace tensorferry
