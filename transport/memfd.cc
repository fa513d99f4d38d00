#include "memfd.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace tensorferry {

std::uint64_t file_size_limit() noexcept {
  rlimit limit{};
  const bool limited = ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return limited ? limit.rlim_cur : UINT64_MAX;
}

namespace {

Result<void> check_file_limit(std::size_t bytes) {
  if (const std::uint64_t limit = file_size_limit(); bytes > limit) {
    return failure(ErrorCode::OutOfSharedMemory,
                   "shared memory of " + std::to_string(bytes) +
                       " bytes is above the process's file size limit of " + std::to_string(limit) +
                       " bytes (ulimit -f)");
  }
  return {};
}

}  // namespace

Result<UniqueFd> new_memfd(const char* name, std::size_t bytes) {
  if (auto allowed = check_file_limit(bytes); !allowed) return std::unexpected(allowed.error());
  constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL, Linux 6.3
  int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal);
  if (fd < 0 && errno == EINVAL) fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return system_failure("memfd_create for shared memory", errno);
  UniqueFd file(fd);
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0)
    return system_failure("sizing shared memory to " + std::to_string(bytes) + " bytes", errno);
  return file;
}

}  // namespace tensorferry
