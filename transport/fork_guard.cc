#include <tensorferry/transport/fork_guard.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace tensorferry {
namespace {

std::atomic<std::uint64_t> generation{0};

// The participants, and what one fork needs. Never destroyed: a fork may come during exit.
struct Registry {
  std::mutex mutex;  // held from before a fork until after it
  std::vector<ForkParticipant*> participants;
  std::vector<ForkParticipant::Mapping> mappings;
  int done[2] = {-1, -1};  // the child closes its end when its copies are made
};

Registry& registry() {
  static auto* one = new Registry;
  return *one;
}

void before_fork() {
  Registry& all = registry();
  all.mutex.lock();
  for (ForkParticipant* each : all.participants) each->before_fork();
  all.mappings.clear();
  for (ForkParticipant* each : all.participants) each->collect(all.mappings);
  all.done[0] = all.done[1] = -1;
  if (!all.mappings.empty() && ::pipe2(all.done, O_CLOEXEC) != 0) all.done[0] = all.done[1] = -1;
}

void close_end(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

void after_fork_parent() {
  Registry& all = registry();
  close_end(all.done[1]);
  if (all.done[0] >= 0) {
    // End of file: the child has its copies, or is dead. Until then nothing here may change.
    char byte;
    while (::read(all.done[0], &byte, 1) < 0 && errno == EINTR) {
    }
  }
  close_end(all.done[0]);
  for (auto it = all.participants.rbegin(); it != all.participants.rend(); ++it)
    (*it)->after_fork_parent();
  all.mutex.unlock();
}

[[noreturn]] void give_up(const char* what) {
  std::fprintf(
      stderr,
      "tensorferry: a forked child could not copy its parent's shared arrays (%s), so it ends\n",
      what);
  ::_exit(70);
}

void make_private(const ForkParticipant::Mapping& mapping) {
  void* at = ::mmap(mapping.data, mapping.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                    mapping.fd, 0);
  if (at == MAP_FAILED) give_up("mmap failed");
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  for (std::span<std::byte> live : mapping.live) {
    // Writing one byte of a private page copies the page.
    for (std::size_t offset = 0; offset < live.size(); offset += page) {
      auto* byte = reinterpret_cast<volatile std::byte*>(live.data() + offset);
      *byte = *byte;
    }
    if (!live.empty()) {
      auto* last = reinterpret_cast<volatile std::byte*>(live.data() + live.size() - 1);
      *last = *last;
    }
  }
}

void after_fork_child() {
  generation.fetch_add(1, std::memory_order_relaxed);
  Registry& all = registry();
  close_end(all.done[0]);
  for (const auto& mapping : all.mappings) make_private(mapping);
  close_end(all.done[1]);
  for (auto it = all.participants.rbegin(); it != all.participants.rend(); ++it)
    (*it)->after_fork_child();
  all.mutex.unlock();
}

}  // namespace

std::shared_ptr<void> register_fork_participant(ForkParticipant& participant) {
  static std::once_flag installed;
  std::call_once(installed,
                 [] { ::pthread_atfork(before_fork, after_fork_parent, after_fork_child); });
  Registry& all = registry();
  {
    std::scoped_lock lock(all.mutex);
    all.participants.push_back(&participant);
  }
  return std::shared_ptr<void>(&participant, [](void* one) {
    Registry& everyone = registry();
    std::scoped_lock lock(everyone.mutex);
    std::erase(everyone.participants, static_cast<ForkParticipant*>(one));
  });
}

void collect_arena(const Arena& arena, std::vector<ForkParticipant::Mapping>& mappings) {
  for (auto& [segment, live] : arena.live_ranges_locked()) {
    mappings.push_back({segment->fd(), segment->data(), segment->bytes(), std::move(live)});
  }
}

std::uint64_t fork_generation() noexcept { return generation.load(std::memory_order_relaxed); }

}  // namespace tensorferry
