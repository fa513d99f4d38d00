#include <tensorferry/transport/memory_limit.h>
#include <tensorferry/transport/segment.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "memfd.h"

namespace tensorferry {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// Reserved in steps, with the limits read anew before each: others use memory meanwhile.
constexpr std::size_t kReserveStep = 64 << 20;
constexpr std::size_t kSmallestStep = 64 << 10;

Result<void> reserve(int fd, std::size_t bytes) {
  std::size_t largest = kReserveStep;
  for (std::size_t at = 0; at < bytes;) {
    if (auto fits = check_memory(bytes - at, memory_limits()); !fits) return fits;
    const std::size_t step = std::min(largest, bytes - at);
    const int error = ::posix_fallocate(fd, static_cast<off_t>(at), static_cast<off_t>(step));
    if (error == 0) {
      at += step;
    } else if (error == EINTR) {
      // Older kernels undo what a signal interrupted: a profiler's timer must not do so for ever.
      largest = std::max(kSmallestStep, Segment::rounded(largest / 2));
    } else {
      auto failed =
          system_failure("reserving " + std::to_string(bytes) + " bytes of shared memory", error);
      failed.error().code = ErrorCode::OutOfSharedMemory;
      return failed;
    }
  }
  return {};
}

Result<std::byte*> map_shared(int fd, std::size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    auto failed =
        system_failure("mapping " + std::to_string(bytes) + " bytes of shared memory", errno);
    failed.error().code = ErrorCode::OutOfSharedMemory;
    return failed;
  }
  ::madvise(data, bytes,
            MADV_HUGEPAGE);  // where the kernel offers them to shared memory; else nothing
  return static_cast<std::byte*>(data);
}

}  // namespace

Segment::Segment(SegmentId id, UniqueFd fd, std::byte* data, std::size_t bytes,
                 std::shared_ptr<void> keeper) noexcept
    : id_(id), fd_(std::move(fd)), data_(data), bytes_(bytes), keeper_(std::move(keeper)) {}

std::shared_ptr<Segment> Segment::adopt(SegmentId id, std::byte* data, std::size_t bytes,
                                        std::shared_ptr<void> keeper) {
  expects(keeper != nullptr, "adopted memory has somebody who keeps it");
  return std::shared_ptr<Segment>(new Segment(id, {}, data, bytes, std::move(keeper)));
}

std::size_t Segment::rounded(std::size_t bytes) noexcept {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return (std::max<std::size_t>(bytes, 1) + page - 1) / page * page;
}

Segment::~Segment() {
  registration_.reset();
  if (!keeper_) ::munmap(data_, bytes_);
}

Result<std::shared_ptr<Segment>> Segment::create(SegmentId id, std::size_t bytes) {
  bytes = rounded(bytes);
  if (auto fits = check_memory(bytes, memory_limits()); !fits) return std::unexpected(fits.error());
  auto fd = new_memfd("tensorferry", bytes);
  if (!fd) return std::unexpected(fd.error());
  if (auto reserved = reserve(fd->get(), bytes); !reserved)
    return std::unexpected(reserved.error());
  if (::fcntl(fd->get(), F_ADD_SEALS, kSeals) != 0)
    return system_failure("sealing a shared memory segment", errno);
  auto data = map_shared(fd->get(), bytes);
  if (!data) return std::unexpected(data.error());
  return std::shared_ptr<Segment>(new Segment(id, std::move(*fd), *data, bytes));
}

Result<std::shared_ptr<Segment>> Segment::map(SegmentId id, UniqueFd fd, std::size_t bytes) {
  if (!fd)
    return failure(ErrorCode::Protocol,
                   "segment " + std::to_string(id) + " came without its descriptor");
  int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return failure(ErrorCode::Protocol, "segment " + std::to_string(id) + " is not a sealed memfd");
  }
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0 || static_cast<std::size_t>(status.st_size) != bytes ||
      bytes == 0) {
    return failure(ErrorCode::Protocol, "segment " + std::to_string(id) + " has " +
                                            std::to_string(status.st_size) + " bytes, " +
                                            std::to_string(bytes) + " were announced");
  }
  auto data = map_shared(fd.get(), bytes);
  if (!data) return std::unexpected(data.error());
  return std::shared_ptr<Segment>(new Segment(id, std::move(fd), *data, bytes));
}

}  // namespace tensorferry
