// How much memory this process may still take: its memory cgroups (v1 and v2, all ancestors),
// RLIMIT_FSIZE for memfds, and the host's memory. posix_fallocate beyond a cgroup's limit is a
// SIGKILL and not an error, so this is asked first.
#pragma once

#include <tensorferry/transport/error.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace tensorferry {

struct MemoryLimit {
  std::filesystem::path source;  // whose limit it is: a cgroup's folder, or meminfo
  std::uint64_t limit = 0;       // bytes
  std::uint64_t used = 0;        // bytes, page cache that can be dropped not counted
};

// The host's memory (meminfo beside `proc_self`) and the limits of all cgroups that this process is
// in. `proc_self` and `cgroup_root` are the system's; tests pass others. An unreadable file counts
// as no limit.
std::vector<MemoryLimit> memory_limits(const std::filesystem::path& proc_self = "/proc/self",
                                       const std::filesystem::path& cgroup_root = "/sys/fs/cgroup");

// OutOfSharedMemory, with sizes, if reserving `bytes` more would leave less than a margin (a
// twentieth of the limit, at most 64 MiB) under one of the limits.
Result<void> check_memory(std::uint64_t bytes, const std::vector<MemoryLimit>& limits);

// What an arena may take unless it is told otherwise: a quarter of the smallest limit, or of the
// host's memory.
std::size_t default_arena_max_bytes();

}  // namespace tensorferry
