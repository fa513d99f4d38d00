#include "system_page.h"

#include "futex.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace fakecuda {
namespace {

constexpr std::uint64_t kMagic = 0x0001'6164'7563'6b66;

void* map_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return MAP_FAILED;
  void* mapped = MAP_FAILED;
  // Only ever grows from nothing to this size, which zeroes it; the lock is for the first two who
  // come.
  if (::flock(fd, LOCK_EX) == 0 && ::ftruncate(fd, sizeof(SystemPage)) == 0)
    mapped = ::mmap(nullptr, sizeof(SystemPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::flock(fd, LOCK_UN);  // the mapping keeps the open file, and with it the lock
  ::close(fd);
  return mapped;
}

}  // namespace

std::string default_state_folder() {
  const std::string folder = "/dev/shm/fakecuda-" + std::to_string(::getuid());
  ::mkdir(folder.c_str(), 0700);
  return folder;
}

void System::open(const std::string& folder) {
  ::mkdir(folder.c_str(), 0700);
  void* mapped = map_file(folder + "/system-" + std::to_string(sizeof(SystemPage)));
  if (mapped == MAP_FAILED) {
    std::fprintf(stderr, "fakecuda: %s: %s; nothing is shared with other processes\n",
                 folder.c_str(), std::strerror(errno));
    mapped = ::mmap(nullptr, sizeof(SystemPage), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  page_ = static_cast<SystemPage*>(mapped);
  page_->magic = kMagic;
  take_slot();
}

bool System::is_slot_alive(std::uint32_t slot) const {
  const auto& process = page_->processes[slot];
  return is_alive({process.pid.load(), process.start_time.load()});
}

void System::take_slot() {
  const ProcessId self = this_process();
  for (std::uint32_t i = 0; i < kMaxProcesses; ++i) {
    auto& slot = page_->processes[i];
    std::uint32_t old = slot.pid.load();
    if (old != 0 && is_slot_alive(i)) continue;
    if (!slot.pid.compare_exchange_strong(old, self.pid)) continue;
    slot.start_time = self.start_time;
    slot.listening = 0;
    for (auto& bytes : slot.device_bytes) bytes = 0;
    slot_ = i;
    return;
  }
  std::fprintf(stderr, "fakecuda: more than %d processes\n", kMaxProcesses);
  slot_ = kMaxProcesses - 1;
}

std::uint64_t System::device_bytes(int device) const {
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < kMaxProcesses; ++i) {
    const auto& slot = page_->processes[i];
    const std::uint64_t bytes = slot.device_bytes[static_cast<std::size_t>(device)].load();
    if (bytes != 0 && (i == slot_ || is_slot_alive(i))) sum += bytes;
  }
  return sum;
}

SharedEvent* System::take_event() {
  for (int tries = 0; tries < kMaxEvents; ++tries) {
    auto& event = page_->events[page_->next_event.fetch_add(1) % kMaxEvents];
    std::uint32_t owner = event.owner.load();
    if (owner != 0 && is_alive({event.pid.load(), page_->processes[owner - 1].start_time.load()}))
      continue;
    if (!event.owner.compare_exchange_strong(owner, slot_ + 1)) continue;
    event.pid = self().pid.load();
    event.key = page_->serial.fetch_add(1) + 1;
    event.cell.recorded = 0;
    event.cell.forced = 0;
    for (auto& epoch : event.clock) epoch = 0;
    for (auto& done : event.cell.done) done = 0;
    return &event;
  }
  return nullptr;
}

void System::wake_listeners() {
  for (std::uint32_t i = 0; i < kMaxProcesses; ++i) {
    auto& slot = page_->processes[i];
    if (i == slot_ || slot.pid.load() == 0 || slot.listening.load() == 0) continue;
    slot.wake.fetch_add(1);
    futex_wake(slot.wake);
  }
}

}  // namespace fakecuda
