#include "physical.h"

#include "driver.h"
#include "process_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string>

namespace fakecuda {
namespace {

constexpr std::uint64_t kMagic = 0x6d656d6475636b66;
constexpr std::uint64_t kPage = 4096;
constexpr unsigned char kFresh = 0xa5, kFreed = 0xdd;

// Of the whole file.
std::uint64_t file_bytes(std::uint64_t size) { return size + shadow_bytes(size) + kPage; }

bool map_data(Physical& physical) {
  const std::uint64_t bytes = file_bytes(physical.size);
  void* mapped =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, physical.fd, 0);
  if (mapped == MAP_FAILED) return false;
  physical.data = static_cast<char*>(mapped);
  physical.shadow = reinterpret_cast<ShadowEntry*>(physical.data + physical.size);
  physical.trailer = reinterpret_cast<Trailer*>(physical.data + bytes - kPage);
  return true;
}

void account(std::uint64_t bytes) {
  count(&fakecuda_counters::device_bytes, bytes);
  const std::uint64_t now = counted(&fakecuda_counters::device_bytes);
  const std::uint64_t peak = counted(&fakecuda_counters::device_bytes_peak);
  if (now > peak) count(&fakecuda_counters::device_bytes_peak, now - peak);
}

}  // namespace

void poison(char* data, std::uint64_t size, unsigned char value) {
  constexpr std::uint64_t kWhole = std::uint64_t{32} << 20, kEnd = std::uint64_t{1} << 20;
  if (size <= kWhole) {
    std::memset(data, value, size);
    return;
  }
  std::memset(data, value, kEnd);
  std::memset(data + size - kEnd, value, kEnd);
}

Physical::~Physical() {
  if (data != nullptr) {
    if (poison_at_end) poison(data, size, kFreed);
    ::munmap(data, file_bytes(size));
  }
  if (fd >= 0) ::close(fd);
  if (is_owner) {
    driver().system.self().device_bytes[static_cast<std::size_t>(device)].fetch_sub(size);
    count_down(&fakecuda_counters::device_bytes, size);
  }
}

CUresult make_physical(Driver& driver, std::uint64_t size, int device, unsigned handle_types,
                       std::shared_ptr<Physical>& made) {
  if (driver.system.device_bytes(device) + size > driver.settings.device_bytes)
    return CUDA_ERROR_OUT_OF_MEMORY;
  auto physical = std::make_shared<Physical>();
  physical->id = driver.system.page().serial.fetch_add(1) + 1;
  physical->size = size;
  physical->device = device;
  physical->handle_types = handle_types;
  const std::string name =
      "fakecuda:" + uuid_text(uuid_of(device)) + ":" + std::to_string(physical->id);
  physical->fd = ::memfd_create(name.c_str(), MFD_CLOEXEC);
  if (physical->fd < 0 || ::ftruncate(physical->fd, static_cast<off_t>(file_bytes(size))) != 0 ||
      !map_data(*physical))
    return CUDA_ERROR_OUT_OF_MEMORY;
  physical->is_owner = true;
  driver.system.self().device_bytes[static_cast<std::size_t>(device)].fetch_add(size);
  account(size);
  physical->trailer->magic = kMagic;
  physical->trailer->id = physical->id;
  physical->trailer->size = size;
  physical->trailer->device = device;
  physical->trailer->handle_types = handle_types;
  if (size > 0) poison(physical->data, size, kFresh);
  made = std::move(physical);
  return CUDA_SUCCESS;
}

CUresult open_physical(int fd, std::shared_ptr<Physical>& opened) {
  struct stat status{};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size < static_cast<off_t>(kPage))
    return CUDA_ERROR_INVALID_VALUE;
  Trailer trailer{};
  const auto got = ::pread(fd, static_cast<void*>(&trailer), sizeof(trailer),
                           status.st_size - static_cast<off_t>(kPage));
  if (got != sizeof(trailer) || trailer.magic != kMagic ||
      file_bytes(trailer.size) != static_cast<std::uint64_t>(status.st_size))
    return CUDA_ERROR_INVALID_VALUE;
  auto physical = std::make_shared<Physical>();
  physical->id = trailer.id;
  physical->size = trailer.size;
  physical->device = trailer.device;
  physical->handle_types = trailer.handle_types;
  physical->fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (physical->fd < 0 || !map_data(*physical)) return CUDA_ERROR_OUT_OF_MEMORY;
  opened = std::move(physical);
  return CUDA_SUCCESS;
}

}  // namespace fakecuda
