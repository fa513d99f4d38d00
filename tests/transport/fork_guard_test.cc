#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tensorferry/transport/fork_guard.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "sanitized.h"

namespace tensorferry {
namespace {

constexpr std::size_t kMiB = 1 << 20;

// An arena that takes part in forks, as a stub's and a model's do.
class Guarded : private ForkParticipant {
 public:
  Guarded() : registration_(register_fork_participant(*this)) {}

  std::byte* filled(std::size_t bytes, int value) {
    Block block = arena.allocate(bytes).value();
    std::memset(block.data, value, bytes);
    return block.data;
  }

  std::atomic<SegmentId> next{1};
  Arena arena{{.initial_bytes = 8 * kMiB, .max_bytes = 64 * kMiB},
              [this](std::size_t bytes) { return Segment::create(next++, bytes); }};
  int parents = 0, children = 0;

 private:
  void before_fork() noexcept override { arena.lock_for_fork(); }
  void collect(std::vector<Mapping>& mappings) override { collect_arena(arena, mappings); }
  void after_fork_parent() noexcept override {
    ++parents;
    arena.unlock_after_fork();
  }
  void after_fork_child() noexcept override {
    ++children;
    arena.unlock_after_fork();
  }
  std::shared_ptr<void> registration_;
};

bool all_are(const std::byte* data, std::size_t bytes, int value) {
  return std::all_of(data, data + bytes, [&](std::byte each) { return each == std::byte(value); });
}

int exit_code(pid_t child) {
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  return WEXITSTATUS(status);
}

// Waits until the other side of the pipe has closed it.
void wait_for(int fd) {
  char byte;
  while (::read(fd, &byte, 1) > 0) {
  }
}

TEST(ForkGuard, TheChildKeepsWhatTheParentOverwritesAtOnce) {
  Guarded one;
  // Small blocks that share a page, and large ones.
  std::byte* small = one.filled(100, 1);
  std::byte* large = one.filled(3 * kMiB + 17, 2);
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go[1]);
    wait_for(go[0]);
    ::_exit(all_are(small, 100, 1) && all_are(large, 3 * kMiB + 17, 2) ? 0 : 1);
  }
  std::memset(small, 9, 100);
  std::memset(large, 9, 3 * kMiB + 17);
  ::close(go[0]);
  ::close(go[1]);
  EXPECT_EQ(exit_code(child), 0);
}

TEST(ForkGuard, TheParentKeepsWhatTheChildOverwrites) {
  Guarded one;
  std::byte* data = one.filled(kMiB, 3);
  const pid_t child = ::fork();
  if (child == 0) {
    std::memset(data, 9, kMiB);
    ::_exit(all_are(data, kMiB, 9) ? 0 : 1);
  }
  EXPECT_EQ(exit_code(child), 0);
  EXPECT_TRUE(all_are(data, kMiB, 3));
}

TEST(ForkGuard, AGrandchildHasItsOwnToo) {
  Guarded one;
  std::byte* data = one.filled(kMiB, 3);
  const pid_t child = ::fork();
  if (child == 0) {
    std::memset(data, 4, kMiB);
    int go[2];
    if (::pipe(go) != 0) ::_exit(2);
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      ::close(go[1]);
      wait_for(go[0]);
      ::_exit(all_are(data, kMiB, 4) && fork_generation() == 2 ? 0 : 1);
    }
    std::memset(data, 5, kMiB);
    ::close(go[1]);
    int status = -1;
    ::waitpid(grandchild, &status, 0);
    ::_exit(status == 0 && all_are(data, kMiB, 5) ? 0 : 3);
  }
  EXPECT_EQ(exit_code(child), 0);
  EXPECT_TRUE(all_are(data, kMiB, 3));
}

TEST(ForkGuard, TheParentsArenaWorksOnAfterTheChildHasEnded) {
  Guarded one;
  Block block = one.arena.allocate(kMiB).value();
  const std::uint64_t generation = fork_generation();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(fork_generation() == generation + 1 && one.children == 1 ? 0 : 1);
  EXPECT_EQ(exit_code(child), 0);
  EXPECT_EQ(one.parents, 1);
  EXPECT_EQ(one.children, 0);
  EXPECT_EQ(fork_generation(), generation);
  EXPECT_TRUE(one.arena.release(block.id));
  EXPECT_TRUE(one.arena.allocate(2 * kMiB));
}

// The program may have closed every descriptor that it doesn't know.
TEST(ForkGuard, NeedsNoneOfTheSegmentsDescriptors) {
  const pid_t program = ::fork();
  if (program == 0) {
    Guarded one;
    std::byte* data = one.filled(kMiB, 3);
    for (int fd = 3; fd < 1024; ++fd) ::close(fd);
    int go[2];
    if (::pipe(go) != 0) ::_exit(2);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(go[1]);
      wait_for(go[0]);
      ::_exit(all_are(data, kMiB, 3) ? 0 : 1);
    }
    std::memset(data, 9, kMiB);
    ::close(go[1]);
    int status = -1;
    ::waitpid(child, &status, 0);
    ::_exit(status == 0 ? 0 : 3);
  }
  EXPECT_EQ(exit_code(program), 0);
}

TEST(ForkGuard, TheChildHoldsNothingOfTheParentsMemory) {
  Guarded one;
  one.filled(kMiB, 3);
  const pid_t child = ::fork();
  if (child == 0) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
      if (line.find("memfd:tensorferry") != std::string::npos) ::_exit(1);
    ::_exit(0);
  }
  EXPECT_EQ(exit_code(child), 0);
}

// Without a pipe nobody could tell the parent to wait: better no child than a wrong one.
TEST(ForkGuard, AChildThatCannotCopyEndsWithAMessageAndTheParentGoesOn) {
  if (kVirtualCallsChecked)
    GTEST_SKIP() << "the sanitizer's check of a virtual call needs a pipe of its own";
  testing::internal::CaptureStderr();
  const pid_t program = ::fork();
  if (program == 0) {
    Guarded one;
    std::byte* data = one.filled(kMiB, 3);
    rlimit limit{3, 3};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::_exit(2);
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    int status = -1;
    ::waitpid(child, &status, 0);
    ::_exit(WIFEXITED(status) && WEXITSTATUS(status) == 70 && all_are(data, kMiB, 3) ? 0 : 3);
  }
  EXPECT_EQ(exit_code(program), 0);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("could not copy its parent's shared arrays (pipe, errno 24)"),
            std::string::npos)
      << text;
}

TEST(ForkGuard, TwoHoldersOfRangesInOneMappingBothKeepThem) {
  auto segment = Segment::create(1, 64 << 10).value();
  struct Holder : ForkParticipant {
    Holder(Segment& in, std::size_t at) : segment(in), live(in.data() + at, 5000) {
      registration = register_fork_participant(*this);
    }
    void before_fork() noexcept override {}
    void collect(std::vector<Mapping>& mappings) override {
      mappings.push_back({segment.fd(), segment.data(), segment.bytes(), {live}});
    }
    void after_fork_parent() noexcept override {}
    void after_fork_child() noexcept override {}
    Segment& segment;
    std::span<std::byte> live;
    std::shared_ptr<void> registration;
  };
  Holder first(*segment, 0), second(*segment, 32 << 10);
  std::memset(segment->data(), 7, segment->bytes());
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go[1]);
    wait_for(go[0]);
    ::_exit(all_are(first.live.data(), 5000, 7) && all_are(second.live.data(), 5000, 7) ? 0 : 1);
  }
  std::memset(segment->data(), 9, segment->bytes());
  ::close(go[0]);
  ::close(go[1]);
  EXPECT_EQ(exit_code(child), 0);
}

TEST(ForkGuard, ForksOfAProcessWithBusyThreadsNeverHang) {
  Guarded one;
  std::byte* data = one.filled(100'000, 3);
  std::atomic<bool> stop{false};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        auto block = one.arena.allocate(5000);
        if (block) one.arena.release(block->id);
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(all_are(data, 100'000, 3) && one.arena.allocate(10'000) ? 0 : 1);
    EXPECT_EQ(exit_code(child), 0);
  }
  stop = true;
}

// A thread that holds the later one's lock takes the earlier one's too, as a stub's link does with
// its model's arena.
TEST(ForkGuard, LocksThatAreTakenInOrderAreNoDeadlock) {
  Guarded earlier;
  struct Later final : ForkParticipant {
    void before_fork() noexcept override { mutex.lock(); }
    void collect(std::vector<Mapping>&) override {}
    void after_fork_parent() noexcept override { mutex.unlock(); }
    void after_fork_child() noexcept override { mutex.unlock(); }
    std::mutex mutex;
    std::shared_ptr<void> registration = register_fork_participant(*this);
  } later;
  std::atomic<bool> stop{false};
  std::jthread busy([&] {
    while (!stop) {
      std::scoped_lock lock(later.mutex);
      auto block = earlier.arena.allocate(5000);
      if (block) earlier.arena.release(block->id);
    }
  });
  for (int i = 0; i < 200; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    EXPECT_EQ(exit_code(child), 0);
  }
  stop = true;
}

TEST(ForkGuard, WhoHasGoneTakesNoPart) {
  {
    Guarded gone;
  }
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  EXPECT_EQ(exit_code(child), 0);
}

}  // namespace
}  // namespace tensorferry
