#include <tensorferry/transport/fork_guard.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
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
  int pipe_error = 0;      // why there is no such pipe, where one is needed
};

Registry& registry() {
  static auto* one = new Registry;
  return *one;
}

// Two participants may hold ranges of one mapping: each mapping is replaced once.
void merge(std::vector<ForkParticipant::Mapping>& mappings) {
  std::ranges::sort(mappings, {}, &ForkParticipant::Mapping::data);
  std::size_t last = 0;
  for (std::size_t i = 1; i < mappings.size(); ++i) {
    if (mappings[i].data == mappings[last].data) {
      mappings[last].live.insert(mappings[last].live.end(), mappings[i].live.begin(),
                                 mappings[i].live.end());
    } else if (++last != i) {
      mappings[last] = std::move(mappings[i]);
    }
  }
  if (!mappings.empty()) mappings.resize(last + 1);
}

void before_fork() {
  Registry& all = registry();
  all.mutex.lock();
  // Who came later may use who came before, and takes its locks in that order: so do we.
  for (auto it = all.participants.rbegin(); it != all.participants.rend(); ++it)
    (*it)->before_fork();
  all.mappings.clear();
  for (ForkParticipant* each : all.participants) each->collect(all.mappings);
  merge(all.mappings);
  all.done[0] = all.done[1] = -1;
  all.pipe_error = !all.mappings.empty() && ::pipe2(all.done, O_CLOEXEC) != 0 ? errno : 0;
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
  for (ForkParticipant* each : all.participants) each->after_fork_parent();
  all.mutex.unlock();
}

// No allocation and no locks of stdio: other threads of the parent may have held them.
[[noreturn]] void give_up(const char* what, int error) {
  char line[256];
  const int length = std::snprintf(line, sizeof line,
                                   "tensorferry: a forked child could not copy its parent's shared "
                                   "arrays (%s, errno %d), so it ends\n",
                                   what, error);
  (void)!::write(STDERR_FILENO, line, static_cast<std::size_t>(length));
  ::_exit(70);
}

// Puts memory of the child's own in the place of a shared mapping, with the live ranges copied.
// Needs no descriptor (the program may have closed ours), and lets go of the parent's memory.
void make_private(const ForkParticipant::Mapping& mapping) {
  void* copy = ::mmap(nullptr, mapping.bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (copy == MAP_FAILED) give_up("mmap", errno);
  for (std::span<std::byte> live : mapping.live) {
    if (live.empty()) continue;
    std::memcpy(static_cast<std::byte*>(copy) + (live.data() - mapping.data), live.data(),
                live.size());
  }
  if (::mremap(copy, mapping.bytes, mapping.bytes, MREMAP_MAYMOVE | MREMAP_FIXED, mapping.data) ==
      MAP_FAILED)
    give_up("mremap", errno);
}

void after_fork_child() {
  generation.fetch_add(1, std::memory_order_relaxed);
  Registry& all = registry();
  close_end(all.done[0]);
  if (all.pipe_error != 0) give_up("pipe", all.pipe_error);
  for (const auto& mapping : all.mappings) make_private(mapping);
  close_end(all.done[1]);
  for (ForkParticipant* each : all.participants) each->after_fork_child();
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
