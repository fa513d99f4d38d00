// A process that traces is a child of the test's: what it wrote is looked at when it has ended.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <tensorferry/transport/trace.h>
#include <tensorferry/transport/unique_fd.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "heap_count.h"
#include "trace_file.h"

#include "sanitized.h"

namespace tensorferry {
namespace {

namespace fs = std::filesystem;
using testing::Each;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

bool until(const std::function<bool()>& what) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!what()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

class TraceTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::temp_directory_path() / ("tensorferry-trace-" + std::to_string(::getpid()) + "-" +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Runs `body` in a process that traces into folder_; a body that returns ends it by exit().
  pid_t start(const std::function<void()>& body) const {
    const pid_t child = ::fork();
    if (child != 0) return child;
    start_trace_file(folder_);
    detail::trace_sinks = kTraceToFile;
    body();
    std::exit(0);
  }
  static int end_of(pid_t child) {
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  std::vector<fs::path> files() const {
    std::vector<fs::path> result;
    if (fs::exists(folder_))
      for (const auto& entry : fs::directory_iterator(folder_)) result.push_back(entry.path());
    return result;
  }
  static std::vector<std::string> lines(const fs::path& file) {
    std::vector<std::string> result;
    std::ifstream stream(file);
    for (std::string line; std::getline(stream, line);) result.push_back(line);
    return result;
  }
  // Of the one file that there is, with what every line must be checked. Without the threads'
  // names.
  std::vector<std::string> the_lines() const {
    if (files().size() != 1) {
      ADD_FAILURE() << files().size() << " files";
      return {};
    }
    auto all = lines(files()[0]);
    EXPECT_EQ(all.at(0), "[");
    all.erase(all.begin());
    EXPECT_THAT(all, Each(StartsWith("{\"name\":\"")));
    EXPECT_THAT(all, Each(EndsWith("},")));
    EXPECT_THAT(all.at(0), HasSubstr("\"process_name\",\"ph\":\"M\""));
    std::erase_if(all, [](const auto& line) { return line.contains("\"thread_name\""); });
    return all;
  }
  static std::size_t count(const std::vector<std::string>& lines, const std::string& text) {
    return static_cast<std::size_t>(std::ranges::count_if(
        lines, [&](const std::string& line) { return line.find(text) != std::string::npos; }));
  }

  fs::path folder_;
};

TEST_F(TraceTest, ASpanThatNobodyLooksAtCostsNoMemoryAndKeepsNothing) {
  ASSERT_EQ(trace_sinks(), 0) << "is TENSORFERRY_TRACE set?";
  const std::size_t before = heap_allocations();
  AsyncSpan queued;
  for (int i = 0; i < 1000; ++i) {
    queued.begin(Phase::Queue, 1);
    Span span(Phase::Send, 1);
    EXPECT_FALSE(span);
    queued.end();
  }
  if (kHeapIsCounted) {
    EXPECT_EQ(heap_allocations(), before);
  }
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(TraceTest, SpansAreEventsWithTheirNumberBytesAndProcess) {
  const pid_t child = start([] {
    name_traced_process("a \"model\"_0_0");
    Span outer(Phase::Wait, 7);
    Span inner(Phase::Answer, 7, 4096);
    EXPECT_TRUE(inner);
  });
  EXPECT_EQ(end_of(child), 0);
  auto all = the_lines();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_THAT(all[0], HasSubstr(R"("args":{"name":"a \"model\"_0_0"})"));
  EXPECT_THAT(all[1], StartsWith(R"({"name":"answer","cat":"tensorferry","ph":"X","ts":)"));
  EXPECT_THAT(all[1], HasSubstr(R"("args":{"number":7,"bytes":4096})"));
  EXPECT_THAT(all[1],
              HasSubstr("\"pid\":" + std::to_string(child) + ",\"tid\":" + std::to_string(child)));
  EXPECT_THAT(all[2], HasSubstr("\"name\":\"wait\""));
}

TEST_F(TraceTest, EachThreadHasItsNameOnce) {
  const pid_t child = start([] {
    for (int i = 0; i < 1000; ++i) Span span(Phase::Wait, 1);
    std::thread([] {
      ::pthread_setname_np(::pthread_self(), "ferry-x");
      for (int i = 0; i < 1000; ++i) Span span(Phase::PollDone, 1);
    }).join();
  });
  EXPECT_EQ(end_of(child), 0);
  const auto all = lines(files().at(0));
  EXPECT_EQ(count(all, "\"thread_name\",\"ph\":\"M\""), 2u);
  const std::string pid = std::to_string(child);
  EXPECT_EQ(count(all, "\"tid\":" + pid + ",\"args\":{\"name\":\"main\"}"), 1u);
  EXPECT_EQ(count(all, "\"args\":{\"name\":\"ferry-x\"}"), 1u);
}

TEST_F(TraceTest, FilesCanBeAskedForLaterOnceAndEndWhenTheyAreToldTo) {
  const pid_t child = ::fork();
  if (child == 0) {
    {
      Span before(Phase::Submit, 1);
      if (!trace_to_files(folder_)) ::_exit(1);
      Span within(Phase::Wait, 2);
    }
    if (trace_to_files(folder_)) ::_exit(2);
    end_trace();
    {
      Span after(Phase::Answer, 3);
    }
    if (trace_to_files(folder_)) ::_exit(3);
    ::_exit(0);  // nothing is left for the process's end to write
  }
  EXPECT_EQ(end_of(child), 0);
  const auto all = the_lines();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_THAT(all[1], StartsWith("{\"name\":\"wait\""));
}

TEST_F(TraceTest, WhatBeginsOnOneThreadAndEndsOnAnotherIsAPairOnce) {
  const pid_t child = start([] {
    AsyncSpan queued;
    queued.end();  // before it has begun: nothing
    queued.begin(Phase::Queue, 9);
    std::thread([&] {
      queued.end();
      queued.end();
    }).join();
  });
  EXPECT_EQ(end_of(child), 0);
  auto all = the_lines();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_THAT(all[1], HasSubstr(R"("ph":"b","id2":{"local":"9"})"));
  EXPECT_THAT(all[2], HasSubstr(R"("ph":"e","id2":{"local":"9"})"));
}

TEST_F(TraceTest, MoreThanABufferHoldsIsWrittenWhole) {
  const pid_t child = start([] {
    for (std::uint64_t i = 0; i < 5000; ++i) Span span(Phase::Execute, i);
  });
  EXPECT_EQ(end_of(child), 0);
  EXPECT_EQ(count(the_lines(), "\"execute\""), 5000u);
}

TEST_F(TraceTest, AThreadThatEndsLeavesNothingUnwritten) {
  const pid_t child = start([] {
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (std::uint64_t i = 0; i < 700; ++i) Span span(Phase::Wait, t);
      });
    }
    for (std::thread& thread : threads) thread.join();
    ::_exit(5);  // no handler of the process's end runs
  });
  EXPECT_EQ(end_of(child), 5);
  EXPECT_EQ(count(the_lines(), "\"wait\""), 2800u);
}

TEST_F(TraceTest, AProcessThatIsKilledLeavesAFileThatCanBeRead) {
  const pid_t child = start([] {
    {
      Span span(Phase::Execute, 3);
    }
    ::pause();
  });
  EXPECT_TRUE(
      until([&] { return files().size() == 1 && count(lines(files()[0]), "\"execute\"") == 1; }));
  ::kill(child, SIGKILL);
  EXPECT_EQ(end_of(child), -SIGKILL);
  EXPECT_EQ(the_lines().size(), 2u);
}

TEST_F(TraceTest, AForkedChildHasAFileOfItsOwnAndWritesNothingOfItsParents) {
  // Its locks may be held by the thread that flushes, and it does not take them for a fork.
  if (kSanitized) GTEST_SKIP() << "the sanitizer's runtime may hang in a threaded program's fork";
  if (emulated()) GTEST_SKIP() << kNoThreadsAfterAFork;
  const pid_t program = start([] {
    {
      Span span(Phase::Wait, 1);
    }
    const pid_t child = ::fork();
    {
      Span span(Phase::Wait, child == 0 ? 2 : 3);
    }
    if (child == 0) std::exit(0);
    std::exit(end_of(child));
  });
  EXPECT_EQ(end_of(program), 0);
  ASSERT_EQ(files().size(), 2u);
  std::vector<std::string> all;
  for (const auto& file : files()) {
    const auto some = lines(file);
    EXPECT_EQ(count(some, "\"process_name\",\"ph\":\"M\""), 1u);
    EXPECT_NE(count(some, "\"number\":2,"), count(some, "\"number\":3,"));
    all.insert(all.end(), some.begin(), some.end());
  }
  for (const char* number : {"\"number\":1,", "\"number\":2,", "\"number\":3,"})
    EXPECT_EQ(count(all, number), 1u) << number;
}

TEST_F(TraceTest, AFolderThatCannotBeMadeIsSaidOnceAndTheProcessGoesOn) {
  folder_ /= "missing/too";
  testing::internal::CaptureStderr();
  const pid_t child = start([] {
    for (std::uint64_t i = 0; i < 2000; ++i) Span span(Phase::Wait, i);
    std::exit(trace_sinks() == 0 ? 0 : 1);
  });
  EXPECT_EQ(end_of(child), 0);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("the trace of process"));
  EXPECT_EQ(said.find("the trace"), said.rfind("the trace"));
}

TEST_F(TraceTest, ATraceEndsBeforeTheLimitOfAFilesSizeWhichWouldKillTheProgram) {
  constexpr rlim_t kLimit = 256 << 10;
  testing::internal::CaptureStderr();
  const pid_t child = start([] {
    const rlimit limit{kLimit, kLimit};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (std::uint64_t i = 0; i < 5000; ++i) Span span(Phase::Wait, i);
    std::exit(trace_sinks() == 0 ? 0 : 1);
  });
  EXPECT_EQ(end_of(child), 0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("ulimit -f"));
  EXPECT_GT(the_lines().size(), 1u);
  EXPECT_LE(fs::file_size(files().at(0)), kLimit);
}

TEST_F(TraceTest, AProgramThatClosesOurFileGetsNoTraceIntoItsOwn) {
  fs::create_directories(folder_);
  const fs::path own = folder_ / "own.txt";
  const pid_t child = start([&] {
    for (std::uint64_t i = 0; i < 600; ++i) Span span(Phase::Wait, i);  // opens the file
    UniqueFd file(::open(own.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    for (int fd = 3; fd < 100; ++fd)
      if (fd != file.get() && ::fcntl(fd, F_GETFD) >= 0) ::dup2(file.get(), fd);
    for (std::uint64_t i = 0; i < 600; ++i) Span span(Phase::Wait, i);
  });
  EXPECT_EQ(end_of(child), 0);
  EXPECT_THAT(lines(own), IsEmpty());
}

}  // namespace
}  // namespace tensorferry
