#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <tensorferry/transport/memory_limit.h>
#include <tensorferry/transport/segment.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

namespace tensorferry {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMiB = 1 << 20;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

// A system that is not ours: proc/self, proc/meminfo and a tree of cgroups.
class MemoryLimits : public testing::Test {
 protected:
  MemoryLimits() { root_ = fs::path(testing::TempDir()) / ("limits" + std::to_string(::getpid())); }
  ~MemoryLimits() override { fs::remove_all(root_); }

  void put(const std::string& path, const std::string& text) { write(root_ / path, text); }
  std::vector<MemoryLimit> read() { return memory_limits(root_ / "proc/self", root_ / "cgroup"); }

  fs::path root_;
};

TEST_F(MemoryLimits, OfVersionOneAreThoseOfAllAncestors) {
  put("proc/self/cgroup", "9:cpu:/a/b\n4:memory:/a/b\n0::/\n");
  put("cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  put("cgroup/memory/a/memory.limit_in_bytes", "1000000000");
  put("cgroup/memory/a/memory.usage_in_bytes", "500000000");
  put("cgroup/memory/a/memory.stat", "cache 7\ntotal_inactive_file 100000000\n");
  put("cgroup/memory/a/b/memory.limit_in_bytes", "2000000000");
  put("cgroup/memory/a/b/memory.usage_in_bytes", "300000000");
  auto limits = read();
  ASSERT_EQ(limits.size(), 2u);
  EXPECT_EQ(limits[0].source, root_ / "cgroup/memory/a/b");
  EXPECT_EQ(limits[0].limit, 2000000000u);
  EXPECT_EQ(limits[0].used, 300000000u);
  EXPECT_EQ(limits[1].limit, 1000000000u);
  EXPECT_EQ(limits[1].used, 400000000u) << "page cache that can be dropped is free";
}

TEST_F(MemoryLimits, OfVersionTwoAreReadWhereTheyAreMounted) {
  put("proc/self/cgroup", "0::/x/y\n");
  put("cgroup/x/memory.max", "600000000\n");
  put("cgroup/x/memory.current", "200000000\n");
  put("cgroup/x/y/memory.max", "max\n");
  auto limits = read();
  ASSERT_EQ(limits.size(), 1u);
  EXPECT_EQ(limits[0].limit, 600000000u);
  EXPECT_EQ(limits[0].used, 200000000u);
}

// A container sees its host's path in /proc/self/cgroup, and its own part mounted at the root.
TEST_F(MemoryLimits, OfAContainerAreFoundAtTheRootOfItsMount) {
  put("proc/self/cgroup", "4:memory:/docker/0123\n0::/../../outside\n");
  put("cgroup/memory/memory.limit_in_bytes", "700000000\n");
  auto limits = read();
  ASSERT_EQ(limits.size(), 1u);
  EXPECT_EQ(limits[0].limit, 700000000u);
}

TEST_F(MemoryLimits, CountTheHostsMemoryWithItsSwap) {
  put("proc/meminfo",
      "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 3000 kB\n"
      "SwapTotal: 1000 kB\nSwapFree: 400 kB\nHugePages_Total: 0\n");
  auto limits = read();
  ASSERT_EQ(limits.size(), 1u);
  EXPECT_EQ(limits[0].limit, 9000u << 10);
  EXPECT_EQ(limits[0].used, 5600u << 10);
}

TEST_F(MemoryLimits, OfASystemWithoutSuchFilesAreNone) { EXPECT_TRUE(read().empty()); }

TEST(CheckMemory, KeepsAMarginAndSaysAllSizes) {
  std::vector<MemoryLimit> limits{{"/g", 1000 * kMiB, 500 * kMiB}};
  EXPECT_TRUE(check_memory(450 * kMiB, limits));
  auto refused = check_memory(451 * kMiB, limits);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::OutOfSharedMemory);
  for (std::uint64_t size : {451 * kMiB, 1000 * kMiB, 500 * kMiB, 50 * kMiB}) {
    EXPECT_NE(refused.error().message.find(std::to_string(size)), std::string::npos)
        << refused.error().message;
  }
  EXPECT_NE(refused.error().message.find("'/g'"), std::string::npos);
}

TEST(CheckMemory, LooksAtEveryLimitAndSurvivesHugeSizes) {
  std::vector<MemoryLimit> limits{{"/wide", 1 << 30, 0}, {"/narrow", 16 * kMiB, 0}};
  EXPECT_TRUE(check_memory(8 * kMiB, limits));
  EXPECT_FALSE(check_memory(32 * kMiB, limits));
  EXPECT_FALSE(check_memory(UINT64_MAX, limits));
  EXPECT_FALSE(check_memory(1, {{"/over", 10, 20}}));
  EXPECT_TRUE(check_memory(UINT64_MAX, {}));
}

TEST(DefaultArenaMaximum, IsAShareOfTheSmallestLimit) {
  std::uint64_t smallest = UINT64_MAX;
  for (const MemoryLimit& limit : memory_limits()) smallest = std::min(smallest, limit.limit);
  EXPECT_GT(default_arena_max_bytes(), 0u);
  EXPECT_LE(default_arena_max_bytes(), smallest / 4);
}

// A memory cgroup of our own, where the system lets us make one.
class LimitedCgroup {
 public:
  explicit LimitedCgroup(std::uint64_t bytes) {
    const fs::path v1 = "/sys/fs/cgroup/memory", v2 = "/sys/fs/cgroup";
    const bool first = fs::exists(v1 / "memory.limit_in_bytes");
    group_ = (first ? v1 : v2) / ("tensorferry-test-" + std::to_string(::getpid()));
    std::error_code failed;
    if (!fs::create_directory(group_, failed)) return;
    made_ = true;
    std::ofstream limit(group_ / (first ? "memory.limit_in_bytes" : "memory.max"));
    limit << bytes << std::flush;
    works_ = limit.good();
  }
  ~LimitedCgroup() {
    if (made_) ::rmdir(group_.c_str());
  }
  LimitedCgroup(const LimitedCgroup&) = delete;
  LimitedCgroup& operator=(const LimitedCgroup&) = delete;

  bool works() const { return works_; }
  bool enter() const {
    std::ofstream procs(group_ / "cgroup.procs");
    procs << ::getpid() << std::flush;
    return procs.good();
  }

 private:
  fs::path group_;
  bool made_ = false;
  bool works_ = false;
};

// What happens before each step of a reservation, given how many came before.
std::function<void(int)> before_step;
int steps = 0;

}  // namespace
}  // namespace tensorferry

// Stands before the C library's in this executable.
extern "C" int posix_fallocate(int fd, off_t offset, off_t bytes) {
  using Real = int (*)(int, off_t, off_t);
  static const auto real = reinterpret_cast<Real>(::dlsym(RTLD_NEXT, "posix_fallocate"));
  if (tensorferry::before_step) tensorferry::before_step(tensorferry::steps++);
  return real(fd, offset, bytes);
}

namespace tensorferry {
namespace {

void expect_ends_well(pid_t child) {
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(LimitedCgroupTest, ADemandAboveTheLimitIsAnErrorAndNobodyIsKilled) {
  LimitedCgroup group(256 * kMiB);
  if (!group.works()) GTEST_SKIP() << "no memory cgroup can be made here (needs root)";
  const pid_t child = ::fork();
  if (child == 0) {
    if (!group.enter()) ::_exit(1);
    auto refused = Segment::create(1, 512 * kMiB);
    if (refused) ::_exit(2);
    if (refused.error().code != ErrorCode::OutOfSharedMemory) ::_exit(3);
    if (refused.error().message.find("268435456") == std::string::npos) ::_exit(4);
    if (default_arena_max_bytes() > 64 * kMiB) ::_exit(5);
    // As many as fit, until an error comes: not a kill.
    std::vector<std::shared_ptr<Segment>> segments;
    for (SegmentId id = 2; id < 100; ++id) {
      auto segment = Segment::create(id, 16 * kMiB);
      if (!segment) ::_exit(segments.size() >= 8 ? 0 : 6);
      segments.push_back(std::move(*segment));
    }
    ::_exit(7);
  }
  expect_ends_well(child);
}

// The limits are read anew before each step: as they were at the beginning the third one would be a
// kill.
TEST(LimitedCgroupTest, MemoryThatSomebodyElseTakesBetweenTwoStepsIsAnErrorAndNobodyIsKilled) {
  LimitedCgroup group(256 * kMiB);
  if (!group.works()) GTEST_SKIP() << "no memory cgroup can be made here (needs root)";
  const pid_t child = ::fork();
  if (child == 0) {
    if (!group.enter()) ::_exit(1);
    std::shared_ptr<Segment> others;
    before_step = [&](int step) {
      if (step == 0) others = Segment::create(2, 96 * kMiB).value();  // two steps of its own
    };
    auto refused = Segment::create(1, 192 * kMiB);
    if (refused) ::_exit(2);
    if (refused.error().code != ErrorCode::OutOfSharedMemory) ::_exit(3);
    if (refused.error().message.find(std::to_string(128 * kMiB)) == std::string::npos) ::_exit(4);
    if (steps != 1 + 2) ::_exit(5);
    others.reset();
    if (!Segment::create(1, 192 * kMiB)) ::_exit(6);  // nothing is left of what was refused
    if (steps != 1 + 2 + 3) ::_exit(7);
    ::_exit(0);
  }
  expect_ends_well(child);
}

}  // namespace
}  // namespace tensorferry
