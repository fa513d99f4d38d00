#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/segment.h>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>

#include "sanitized.h"

namespace tensorferry {
namespace {

constexpr std::size_t kMiB = 1 << 20;

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename());
  return names;
}

// Runs `body` in a child, which exits with what it returns; gives the wait status.
int in_child(const std::function<int()>& body) {
  pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

UniqueFd memfd(std::size_t bytes, int seals) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  if (seals != 0) {
    EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  }
  return fd;
}

TEST(Segment, LetsItsRegistrationGoWhileItIsStillMapped) {
  auto segment = Segment::create(7, 4096).value();
  EXPECT_FALSE(segment->is_pinned());
  std::byte* data = segment->data();
  data[0] = std::byte{5};
  std::byte seen{0};
  segment->pin(std::shared_ptr<void>(
      data, [&seen](void* memory) { seen = *static_cast<std::byte*>(memory); }));
  EXPECT_TRUE(segment->is_pinned());
  EXPECT_EQ(seen, std::byte{0});
  segment.reset();
  EXPECT_EQ(seen, std::byte{5});
}

TEST(SegmentMap, TellsWhatItHas) {
  SegmentMap map;
  EXPECT_TRUE(map.all().empty());
  for (SegmentId id : {1u, 2u}) map.insert(Segment::create(id, 4096).value());
  map.erase(1);
  ASSERT_EQ(map.all().size(), 1u);
  EXPECT_EQ(map.all().front()->id(), 2u);
}

TEST(Segment, IsWritableWholePagesAndZero) {
  auto segment = Segment::create(7, 5000);
  ASSERT_TRUE(segment) << segment.error().message;
  EXPECT_EQ((*segment)->id(), 7u);
  EXPECT_EQ((*segment)->bytes(), 8192u);
  for (std::size_t i = 0; i < 8192; ++i) ASSERT_EQ((*segment)->data()[i], std::byte{0});
  std::memset((*segment)->data(), 0xff, 8192);
}

TEST(Segment, CannotBeResizedOrSealedDifferently) {
  auto segment = Segment::create(1, kMiB).value();
  EXPECT_EQ(::ftruncate(segment->fd(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(segment->fd(), 2 * kMiB), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fcntl(segment->fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST(Segment, HasItsPagesReserved) {
  auto segment = Segment::create(1, 3 * kMiB).value();
  struct stat status{};
  ASSERT_EQ(::fstat(segment->fd(), &status), 0);
  EXPECT_GE(static_cast<std::size_t>(status.st_blocks) * 512, 3 * kMiB);
}

TEST(Segment, HasNoNameAndIsClosedOnExec) {
  auto before = names_in("/dev/shm");
  auto segment = Segment::create(1, kMiB).value();
  EXPECT_EQ(names_in("/dev/shm"), before);
  EXPECT_TRUE(::fcntl(segment->fd(), F_GETFD) & FD_CLOEXEC);
}

TEST(Segment, IsTheSameMemoryWhereItIsMappedAgain) {
  auto made = Segment::create(3, kMiB).value();
  auto mapped = Segment::map(3, UniqueFd(::dup(made->fd())), kMiB);
  ASSERT_TRUE(mapped) << mapped.error().message;
  EXPECT_NE((*mapped)->data(), made->data());
  made->data()[12345] = std::byte{42};
  EXPECT_EQ((*mapped)->data()[12345], std::byte{42});
  made.reset();
  EXPECT_EQ((*mapped)->data()[12345], std::byte{42});
}

TEST(Segment, IsGoneWithItsLastMapping) {
  auto segment = Segment::create(1, kMiB).value();
  void* data = segment->data();
  int fd = segment->fd();
  segment.reset();
  unsigned char resident = 0;
  EXPECT_EQ(::mincore(data, 4096, &resident), -1);
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

struct Refused {
  const char* name;
  std::function<UniqueFd()> fd;
  const char* says;
};

class SegmentRefuses : public testing::TestWithParam<Refused> {};

TEST_P(SegmentRefuses, WhatAPeerShouldNotHaveSent) {
  auto mapped = Segment::map(9, GetParam().fd(), kMiB);
  ASSERT_FALSE(mapped);
  EXPECT_EQ(mapped.error().code, ErrorCode::Protocol);
  EXPECT_NE(mapped.error().message.find(GetParam().says), std::string::npos)
      << mapped.error().message;
  EXPECT_NE(mapped.error().message.find("segment 9"), std::string::npos);
}

constexpr int kAll = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
INSTANTIATE_TEST_SUITE_P(
    Each, SegmentRefuses,
    testing::Values(
        Refused{"None", [] { return UniqueFd(); }, "descriptor"},
        Refused{"Unsealed", [] { return memfd(kMiB, 0); }, "sealed"},
        Refused{"Shrinkable", [] { return memfd(kMiB, F_SEAL_GROW | F_SEAL_SEAL); }, "sealed"},
        Refused{"Growable", [] { return memfd(kMiB, F_SEAL_SHRINK | F_SEAL_SEAL); }, "sealed"},
        Refused{"Short", [] { return memfd(kMiB - 4096, kAll); }, "announced"},
        Refused{"Long", [] { return memfd(kMiB + 4096, kAll); }, "announced"},
        Refused{"Device", [] { return UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC)); },
                "sealed"},
        Refused{"File",
                [] {
                  UniqueFd fd(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
                  EXPECT_EQ(::ftruncate(fd.get(), kMiB), 0);
                  return fd;
                },
                "sealed"}),
    [](const auto& test) { return std::string(test.param.name); });

// A file beyond RLIMIT_FSIZE is a SIGXFSZ by default: the child must live to see an error.
TEST(Segment, AboveTheFileSizeLimitIsAnErrorAndNoSignal) {
  int status = in_child([] {
    rlimit limit{kMiB, kMiB};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    if (!Segment::create(1, kMiB)) return 2;
    auto segment = Segment::create(2, 2 * kMiB);
    if (segment) return 3;
    if (segment.error().code != ErrorCode::OutOfSharedMemory) return 4;
    return segment.error().message.find("2097152") == std::string::npos ? 5 : 0;
  });
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Segment, AboveTheAddressSpaceLimitIsAnErrorWithTheSize) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need an unlimited address space";
  if (std::getenv("TENSORFERRY_EMULATED"))
    GTEST_SKIP() << "the emulator keeps no address space limit";
  int status = in_child([] {
    rlimit limit{512 * kMiB, 512 * kMiB};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    auto segment = Segment::create(2, 600 * kMiB);
    if (segment) return 3;
    if (segment.error().code != ErrorCode::OutOfSharedMemory) return 4;
    return segment.error().message.find("629145600") == std::string::npos ? 5 : 0;
  });
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Segment, OutOfDescriptorsIsAnError) {
  if (kSanitized || kVirtualCallsChecked)
    GTEST_SKIP() << "sanitizers open descriptors of their own";
  int status = in_child([] {
    rlimit limit{3, 3};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
    auto segment = Segment::create(2, kMiB);
    if (segment) return 3;
    return segment.error().code == ErrorCode::System ? 0 : 4;
  });
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// Before Linux 6 a signal ends posix_fallocate and undoes it: a profiler's timer must not keep a
// large segment from ever being reserved.
TEST(Segment, IsReservedUnderAStormOfSignals) {
  int status = in_child([] {
    struct sigaction action{};
    action.sa_handler = [](int) {};  // without SA_RESTART
    ::sigaction(SIGALRM, &action, nullptr);
    itimerval every{{0, 1000}, {0, 1000}};
    ::setitimer(ITIMER_REAL, &every, nullptr);
    auto segment = Segment::create(2, 96 * kMiB);
    every = {};
    ::setitimer(ITIMER_REAL, &every, nullptr);
    return segment ? 0 : 1;
  });
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(SegmentMap, ResolvesWhatLiesInsideAndRefusesTheRest) {
  SegmentMap map;
  map.insert(Segment::create(4, 8192).value());
  auto range = map.resolve(4, 4096, 4096);
  ASSERT_TRUE(range);
  EXPECT_EQ(range->bytes.data(), map.find(4)->data() + 4096);
  EXPECT_EQ(range->bytes.size(), 4096u);
  EXPECT_TRUE(map.resolve(4, 8192, 0));
  for (auto [id, offset, bytes] : {std::tuple<SegmentId, std::uint64_t, std::uint64_t>{5, 0, 1},
                                   {4, 4096, 4097},
                                   {4, 8193, 0},
                                   {4, 1, UINT64_MAX},
                                   {4, UINT64_MAX, 2},
                                   {4, UINT64_MAX, 0}}) {
    auto wrong = map.resolve(id, offset, bytes);
    ASSERT_FALSE(wrong) << id << " " << offset << " " << bytes;
    EXPECT_EQ(wrong.error().code, ErrorCode::Protocol);
  }
}

TEST(SegmentMap, ARangeKeepsItsSegmentMapped) {
  SegmentMap map;
  map.insert(Segment::create(4, 4096).value());
  auto range = map.resolve(4, 0, 10).value();
  map.erase(4);
  map.erase(4);
  EXPECT_EQ(map.find(4), nullptr);
  range.bytes[0] = std::byte{1};
  EXPECT_EQ(range.bytes[0], std::byte{1});
}

// Addresses of a GPU: nothing may be there for the CPU.
TEST(AdoptedSegment, IsUnderAnArenasBooksAndItsMemoryIsNeverTouched) {
  constexpr std::size_t kBytes = 1 << 20;
  void* nowhere = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(nowhere, MAP_FAILED);
  auto keeper = std::make_shared<int>();
  std::weak_ptr<int> kept = keeper;
  {
    Arena arena({.max_bytes = kBytes}, [&](std::size_t) -> Result<std::shared_ptr<Segment>> {
      return Segment::adopt(1, static_cast<std::byte*>(nowhere), kBytes, std::move(keeper));
    });
    auto one = arena.allocate(5000);
    auto two = arena.allocate(300'000);
    ASSERT_TRUE(one && two);
    EXPECT_TRUE(arena.owns(two->data + 299'999));
    EXPECT_EQ(arena.find(one->data + 4999)->id, one->id);
    EXPECT_EQ(arena.segments().front()->fd(), -1);
    EXPECT_TRUE(arena.release(one->id) && arena.release(two->id));
    EXPECT_EQ(arena.bytes_in_use(), 0u);
    EXPECT_EQ(arena.trim(0), kBytes);
    EXPECT_TRUE(kept.expired()) << "the segment went, and let its keeper go";
  }
  EXPECT_EQ(::munmap(nowhere, kBytes), 0) << "not the segment's to unmap";
}

}  // namespace
}  // namespace tensorferry
