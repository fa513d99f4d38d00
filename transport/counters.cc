#include <tensorferry/transport/counters.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <tensorferry/transport/fork_guard.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>

#include "memfd.h"
#include "own_descriptor.h"

namespace tensorferry {
namespace {

// Sealed against resizing, so that no reader can meet a SIGBUS, and against any writer but us.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;

void* map(int fd) noexcept {
  const int sharing = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  return ::mmap(nullptr, sizeof(CounterPage), PROT_READ | PROT_WRITE, sharing, fd, 0);
}

// Its pages are not reserved as a segment's are: nobody else can take them from us, and a process
// that has no memory for 64 KiB ends at its next malloc anyhow.
UniqueFd new_page() {
  auto fd = new_memfd(kCounterPageName, sizeof(CounterPage));
  return fd ? std::move(*fd) : UniqueFd();
}

std::string text_of(std::string_view name, std::initializer_list<CounterLabel> labels) {
  std::string text(name);
  text += '\0';
  for (const auto& [key, value] : labels) {
    text.append(key) += '\0';
    text.append(value) += '\0';
  }
  return text;
}

[[noreturn]] void give_up(int error) noexcept {
  char line[128];
  const int length = std::snprintf(line, sizeof line,
                                   "tensorferry: a forked child found no memory for its counters "
                                   "(errno %d), so it ends\n",
                                   error);
  (void)!::write(STDERR_FILENO, line, static_cast<std::size_t>(length));
  ::_exit(70);
}

}  // namespace

struct Counters::Impl final : ForkParticipant {
  explicit Impl(std::size_t wanted)
      : slots(std::clamp<std::size_t>(wanted, 1, kCounterSlots)), file(new_page()) {
    void* memory = file.get() >= 0 ? map(file.get()) : MAP_FAILED;
    if (memory == MAP_FAILED) {
      file.close();
      memory = map(-1);
      if (memory == MAP_FAILED) throw std::bad_alloc();
    }
    page = new (memory) CounterPage{};
    page->header.magic = kCounterPageMagic;
    page->header.version = kCounterPageVersion;
    page->header.slot_bytes = sizeof(CounterSlot);
    if (file.get() >= 0) ::fcntl(file.get(), F_ADD_SEALS, kSeals);
    fork_registration = register_fork_participant(*this);
  }
  ~Impl() override { ::munmap(page, sizeof(CounterPage)); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void before_fork() noexcept override { mutex.lock(); }
  void collect(std::vector<Mapping>&) override {}
  void after_fork_parent() noexcept override { mutex.unlock(); }
  void after_fork_child() noexcept override;

  const std::size_t slots;
  OwnDescriptor file;
  CounterPage* page = nullptr;

  std::mutex mutex;  // guards what follows; the page is for others to read and tells us nothing
  std::size_t used = 0;
  std::map<std::string, Counter, std::less<>> by_text;
  std::deque<std::atomic<std::uint64_t>> elsewhere;  // counters without room in the page

  std::shared_ptr<void> fork_registration;  // last: let go of first
};

// The page is the parent's: memory of the child's own takes its place, with what was counted.
void Counters::Impl::after_fork_child() noexcept {
  void* own = map(-1);
  if (own == MAP_FAILED) give_up(errno);
  std::memcpy(own, static_cast<const void*>(page), sizeof(CounterPage));
  if (::mremap(own, sizeof(CounterPage), sizeof(CounterPage), MREMAP_MAYMOVE | MREMAP_FIXED,
               page) == MAP_FAILED)
    give_up(errno);
  file.close();
  mutex.unlock();
}

Counters& Counters::of_process() {
  static auto* one = new Counters;
  return *one;
}

Counters::Counters(std::size_t slots) : impl_(std::make_unique<Impl>(slots)) {
  add("counters_without_room");  // the first slot: add() counts in it
}

Counters::~Counters() = default;

int Counters::fd() const noexcept { return impl_->file.get(); }

Counter Counters::add(std::string_view name, std::initializer_list<CounterLabel> labels) {
  Impl& all = *impl_;
  std::string text = text_of(name, labels);
  std::scoped_lock lock(all.mutex);
  if (auto known = all.by_text.find(text); known != all.by_text.end()) return known->second;
  if (all.used == all.slots) {
    Counter(all.page->slots[0].value).add();
    Counter counter(all.elsewhere.emplace_back(0));
    all.by_text.emplace(std::move(text), counter);
    return counter;
  }
  CounterSlot& slot = all.page->slots[all.used++];
  slot.text_bytes = static_cast<std::uint32_t>(std::min(text.size(), kCounterTextBytes));
  std::memcpy(slot.text, text.data(), slot.text_bytes);
  // Pairs with the reader's acquire: it sees whole slots only.
  all.page->header.used.store(static_cast<std::uint32_t>(all.used), std::memory_order_release);
  Counter counter(slot.value);
  all.by_text.emplace(std::move(text), counter);
  return counter;
}

}  // namespace tensorferry
