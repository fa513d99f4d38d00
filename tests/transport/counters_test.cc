#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/counters.h>
#include <tensorferry/transport/unique_fd.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "heap_count.h"

namespace tensorferry {
namespace {

using testing::HasSubstr;
using Labels = std::vector<std::pair<std::string, std::string>>;

std::uint64_t value_of(const std::vector<CounterSample>& samples, std::string_view name,
                       const Labels& labels = {}) {
  for (const auto& sample : samples)
    if (sample.name == name && sample.labels == labels) return sample.value;
  ADD_FAILURE() << "no counter " << name;
  return 0;
}

int exit_code(pid_t child) {
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Counters, WhatIsCountedIsReadWithItsNameAndLabels) {
  Counters counters;
  Counter requests = counters.add("requests", {{"model", "a\nb"}, {"outcome", "success"}});
  requests.add();
  requests.add(41);
  auto read = read_counter_page(counters.fd());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(value_of(*read, "requests", {{"model", "a?b"}, {"outcome", "success"}}), 42u);
  EXPECT_EQ(value_of(*read, "counters_without_room"), 0u);
  EXPECT_EQ(requests.value(), 42u);
}

TEST(Counters, TheSameNameAndLabelsAreTheSameCounter) {
  Counters counters;
  counters.add("loads", {{"model", "m"}}).add(2);
  counters.add("loads", {{"model", "m"}}).add(3);
  counters.add("loads", {{"model", "n"}}).add(7);
  auto read = read_counter_page(counters.fd()).value();
  EXPECT_EQ(read.size(), 3u);
  EXPECT_EQ(value_of(read, "loads", {{"model", "m"}}), 5u);
  EXPECT_EQ(value_of(read, "loads", {{"model", "n"}}), 7u);
}

TEST(Counters, CountingAllocatesNothing) {
  if (!kHeapIsCounted) GTEST_SKIP() << "the sanitizer's operator new cannot be replaced";
  Counters counters;
  Counter one = counters.add("one");
  const std::size_t before = heap_allocations();
  for (int i = 0; i < 1000; ++i) one.add();
  EXPECT_EQ(heap_allocations(), before);
}

TEST(Counters, ManyThreadsCountAndAddAndLoseNothing) {
  Counters counters;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) counters.add("n", {{"j", std::to_string(j % 10)}}).add();
    });
  }
  for (std::thread& thread : threads) thread.join();
  auto read = read_counter_page(counters.fd()).value();
  EXPECT_EQ(read.size(), 11u);
  for (int j = 0; j < 10; ++j) EXPECT_EQ(value_of(read, "n", {{"j", std::to_string(j)}}), 400u);
}

TEST(Counters, AFullPageGivesCountersThatCountElsewhereAndSaysSo) {
  Counters counters(3);
  for (const char* name : {"a", "b", "c", "d"}) counters.add(name).add(5);
  EXPECT_EQ(counters.add("d").value(), 5u);
  auto read = read_counter_page(counters.fd()).value();
  EXPECT_EQ(read.size(), 3u);
  EXPECT_EQ(value_of(read, "b"), 5u);
  EXPECT_EQ(value_of(read, "counters_without_room"), 2u);
}

TEST(Counters, ATextThatIsTooLongIsCutAndStillNamesOneCounter) {
  Counters counters;
  const std::string name(1000, 'x');
  counters.add(name).add(1);
  counters.add(name + "y").add(2);
  auto read = read_counter_page(counters.fd()).value();
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[1].name, std::string(kCounterTextBytes, 'x'));
  EXPECT_EQ(read[1].value, 1u);
  EXPECT_EQ(read[2].value, 2u);
}

TEST(Counters, NobodyElseCanWriteOrResizeThePage) {
  Counters counters;
  const std::string path = "/proc/self/fd/" + std::to_string(counters.fd());
  UniqueFd other(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(other);
  EXPECT_EQ(::pwrite(other.get(), "x", 1, 0), -1);
  EXPECT_EQ(::mmap(nullptr, sizeof(CounterPage), PROT_WRITE, MAP_SHARED, other.get(), 0),
            MAP_FAILED);
  EXPECT_EQ(::fallocate(other.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
  EXPECT_EQ(::ftruncate(other.get(), 0), -1);
}

TEST(Counters, OfTheProcessAreFoundByItsPidAndHaveTheCopies) {
  char from[100] = {}, to[100];
  copy_payload(to, from, sizeof to);
  auto read = read_process_counters(::getpid());
  ASSERT_TRUE(read) << read.error().message;
  const CopyCounts counts = copy_counts();
  EXPECT_EQ(value_of(*read, "copies", {{"kind", "host"}}), counts.calls_of(CopyKind::Host));
  EXPECT_EQ(value_of(*read, "copied_bytes", {{"kind", "host"}}), counts.bytes_of(CopyKind::Host));
  EXPECT_GE(counts.bytes_of(CopyKind::Host), 100u);
}

TEST(Counters, EqualCountersOfSeveralPagesAreAddedUp) {
  Counters one, two;
  one.add("seldom_used").add(1);
  two.add("seldom_used").add(2);
  EXPECT_EQ(value_of(read_process_counters(::getpid()).value(), "seldom_used"), 3u);
}

TEST(Counters, AProcessThatIsNotThereOrHasNoneIsSaid) {
  int until_exec[2];
  ASSERT_EQ(::pipe2(until_exec, O_CLOEXEC), 0);
  const pid_t idle = ::fork();
  if (idle == 0) {
    ::execlp("sleep", "sleep", "60", nullptr);
    ::_exit(127);
  }
  ::close(until_exec[1]);
  char byte;
  EXPECT_EQ(::read(until_exec[0], &byte, 1), 0);  // it has our pages until then
  ::close(until_exec[0]);
  auto none = read_process_counters(idle);
  ::kill(idle, SIGKILL);
  ::waitpid(idle, nullptr, 0);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::NotFound);
  auto gone = read_process_counters(idle);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ErrorCode::NotFound);
  EXPECT_THAT(gone.error().message, HasSubstr("there is no process"));
}

TEST(Counters, AForkedChildCountsOnByItselfAndTheParentSeesNothingOfIt) {
  Counters counters;
  Counter one = counters.add("one");
  one.add(10);
  const pid_t child = ::fork();
  if (child == 0) {
    one.add(5);
    counters.add("two").add(7);
    const bool counted = one.value() == 15 && counters.add("two").value() == 7;
    const bool hidden = counters.fd() == -1 && !read_process_counters(::getpid());
    ::_exit(counted && hidden ? 0 : 1);
  }
  EXPECT_EQ(exit_code(child), 0);
  auto read = read_counter_page(counters.fd()).value();
  EXPECT_EQ(value_of(read, "one"), 10u);
  EXPECT_EQ(read.size(), 2u);
}

TEST(Counters, AChildLeavesADescriptorThatIsNoLongerOurs) {
  const pid_t program = ::fork();
  if (program == 0) {
    Counters counters;
    UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!null || ::dup2(null.get(), counters.fd()) < 0) ::_exit(2);
    const int number = counters.fd();
    const pid_t child = ::fork();
    if (child == 0) ::_exit(::fcntl(number, F_GETFD) >= 0 ? 0 : 3);
    ::_exit(exit_code(child));
  }
  EXPECT_EQ(exit_code(program), 0);
}

TEST(Counters, WithoutAMemfdTheyCountInOrdinaryMemory) {
  const pid_t program = ::fork();
  if (program == 0) {
    rlimit limit{4096, 4096};  // a larger file would be a SIGXFSZ
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    Counters counters;
    Counter one = counters.add("one");
    one.add(3);
    ::_exit(counters.fd() == -1 && one.value() == 3 ? 0 : 1);
  }
  EXPECT_EQ(exit_code(program), 0);
}

// A page that a liar made: a memfd of that name and size, with these seals.
class LyingPage {
 public:
  explicit LyingPage(std::size_t bytes = sizeof(CounterPage), int seals = F_SEAL_SHRINK) {
    fd_.reset(::memfd_create(kCounterPageName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(bytes)), 0);
    EXPECT_EQ(::fcntl(fd_.get(), F_ADD_SEALS, seals), 0);
  }
  void write(const CounterPage& page) const {
    EXPECT_EQ(::pwrite(fd_.get(), &page, sizeof page, 0), sizeof page);
  }
  std::string refusal() const {
    auto read = read_counter_page(fd_.get());
    return read ? "it was believed" : read.error().message;
  }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

std::unique_ptr<CounterPage> a_good_page() {
  auto page = std::make_unique<CounterPage>();
  page->header.magic = kCounterPageMagic;
  page->header.version = kCounterPageVersion;
  page->header.slot_bytes = sizeof(CounterSlot);
  return page;
}

TEST(CountersReader, RefusesWhatIsNoPage) {
  EXPECT_THAT(LyingPage(sizeof(CounterPage), 0).refusal(), HasSubstr("not a sealed memfd"));
  EXPECT_THAT(LyingPage(4096).refusal(), HasSubstr("4096 bytes"));
  EXPECT_THAT(LyingPage(1 << 20).refusal(), HasSubstr("1048576 bytes"));
  EXPECT_THAT(LyingPage().refusal(), HasSubstr("first bytes"));
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  EXPECT_EQ(read_counter_page(read_end.get()).error().code, ErrorCode::Protocol);
  EXPECT_EQ(read_counter_page(-1).error().code, ErrorCode::Protocol);
}

TEST(CountersReader, RefusesAnotherVersionAndNamesBoth) {
  LyingPage liar;
  auto page = a_good_page();
  page->header.version = 7;
  liar.write(*page);
  EXPECT_THAT(liar.refusal(), HasSubstr("version 7"));
  page = a_good_page();
  page->header.slot_bytes = 1 << 30;
  liar.write(*page);
  EXPECT_THAT(liar.refusal(), HasSubstr("layout"));
}

TEST(CountersReader, SurvivesCountsAndLengthsThatLie) {
  LyingPage liar;
  auto page = a_good_page();
  page->header.used = 0xFFFFFFFF;
  for (CounterSlot& slot : page->slots) {
    slot.text_bytes = 0xFFFFFFFF;
    std::memset(slot.text, 'x', sizeof slot.text);  // no NUL anywhere
  }
  page->slots[1].text[3] = '\0';
  page->slots[2].text_bytes = 0;
  std::memset(page->slots[3].text, 0, sizeof page->slots[3].text);
  std::memset(page->slots[4].text, 0xFF, sizeof page->slots[4].text);
  page->slots[5].text[0] = '\x1b';
  liar.write(*page);
  auto read = read_counter_page(liar.fd());
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), kCounterSlots);
  EXPECT_EQ(read->at(0).name.size(), kCounterTextBytes);
  EXPECT_EQ(read->at(1).labels.size(), 1u);
  EXPECT_EQ(read->at(1).labels[0].second, "") << "a key without a value";
  EXPECT_EQ(read->at(2).name, "");
  EXPECT_EQ(read->at(4).name, std::string(kCounterTextBytes, '\xFF'));
  EXPECT_EQ(read->at(5).name[0], '?') << "nothing that steers a terminal";
}

TEST(CountersReader, ALyingPageAmongAProcessesDescriptorsIsAnErrorAndNoCrash) {
  LyingPage liar;
  auto read = read_process_counters(::getpid());
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::Protocol);
}

TEST(CountersReader, APageThatIsWrittenAllTheTimeStaysWithinItsBounds) {
  LyingPage liar;
  liar.write(*a_good_page());
  std::atomic<bool> done{false};
  std::thread writer([&] {
    auto spoilt = a_good_page();
    std::minstd_rand chance;
    while (!done) {
      spoilt->header.used = static_cast<std::uint32_t>(chance());
      for (CounterSlot& slot : spoilt->slots)
        slot.text_bytes = static_cast<std::uint32_t>(chance());
      liar.write(*spoilt);
    }
  });
  for (int i = 0; i < 200; ++i) {
    auto read = read_counter_page(liar.fd());
    EXPECT_LE(read ? read->size() : 0, kCounterSlots);
  }
  done = true;
  writer.join();
}

}  // namespace
}  // namespace tensorferry
