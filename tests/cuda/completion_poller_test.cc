#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/stream.h>

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "fake_driver.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

// What callbacks said, and waiting for it.
class Heard {
 public:
  CompletionPoller::Done note() {
    return [this](Result<void> how) {
      std::scoped_lock lock(mutex_);
      all_.push_back(how ? "done" : how.error().message);
      changed_.notify_all();
    };
  }
  std::vector<std::string> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(30), [&] { return all_.size() >= count; }));
    return all_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> all_;
};

// How often the poller's thread has been taken off a CPU: as often as it has been on one.
std::string switches_of_the_thread() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name, line, switches;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name != "ferry-gpu-poll") continue;
    std::ifstream status(task.path() / "status");
    while (std::getline(status, line))
      if (line.find("ctxt_switches") != std::string::npos) switches += line;
    return switches;
  }
  return "no thread";
}

class CompletionPollerTest : public GpuTest {
 protected:
  void TearDown() override {
    poller_.reset();
    events_.clear();
    stream_.reset();
    GpuTest::TearDown();
  }
  EventHandle recorded() {
    auto guard = enter();
    if (!stream_) stream_ = make_stream();
    events_.push_back(std::move(*make_event(false)));
    EXPECT_TRUE(record(events_.back().get(), stream_->get()));
    return events_.back().get();
  }
  // An event that stays pending until emulator_advances().
  static constexpr Variables kNothingRuns = {{"FAKECUDA_SCHED", "lazy"},
                                             {"FAKECUDA_POLLS", "1000000000"}};

  Heard heard_;
  std::optional<Stream> stream_;
  std::vector<Event> events_;
  std::unique_ptr<CompletionPoller> poller_ = std::make_unique<CompletionPoller>();
};

TEST_F(CompletionPollerTest, CallsBackOnceForEachEvent) {
  for (int i = 0; i < 100; ++i) poller_->watch(recorded(), 1, heard_.note());
  EXPECT_EQ(heard_.wait_for(100), std::vector<std::string>(100, "done"));
  EXPECT_EQ(poller_->statistics().completed, 100U);
  EXPECT_EQ(poller_->statistics().in_flight, 0U);
}

TEST_F(CompletionPollerTest, AsksTheDriverAndNeverWaitsInIt) {
  if (!emulator_has("counters")) return;
  const auto before = emulator_counters();
  poller_->watch(recorded(), 1, heard_.note());
  heard_.wait_for(1);
  const auto after = emulator_counters();
  EXPECT_EQ(after.event_queries - before.event_queries, poller_->statistics().queries);
  EXPECT_EQ(after.event_syncs + after.stream_syncs + after.context_syncs,
            before.event_syncs + before.stream_syncs + before.context_syncs);
}

TEST_F(CompletionPollerTest, AsksNothingWhenNothingIsInFlight) {
  poller_->watch(recorded(), 1, heard_.note());
  heard_.wait_for(1);
  const auto asked = poller_->statistics().queries;
  const auto slept = poller_->statistics().sleeps;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(poller_->statistics().queries, asked);
  EXPECT_EQ(poller_->statistics().sleeps, slept);
  poller_->watch(recorded(), 1, heard_.note());
  EXPECT_EQ(heard_.wait_for(2).size(), 2U) << "it wakes up again";
}

TEST_F(CompletionPollerTest, TakesNoCpuWhenNothingIsInFlight) {
  poller_->watch(recorded(), 1, heard_.note());
  heard_.wait_for(1);
  // It may still be on its way to sleep; then it never runs again.
  std::string before, after = switches_of_the_thread();
  ASSERT_THAT(after, testing::HasSubstr("ctxt_switches"));
  for (int tries = 0; tries < 20 && before != after; ++tries) {
    before = after;
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    after = switches_of_the_thread();
  }
  EXPECT_EQ(before, after);
}

TEST_F(CompletionPollerTest, WaitsForWhatTakesLongAndSleepsMeanwhile) {
  if (!in_own_process(kNothingRuns)) return;
  poller_->watch(recorded(), 1, heard_.note());
  while (poller_->statistics().sleeps < 5) std::this_thread::yield();
  EXPECT_EQ(poller_->statistics().completed, 0U);
  emulator_advances();
  EXPECT_EQ(heard_.wait_for(1), std::vector<std::string>{"done"});
}

TEST_F(CompletionPollerTest, WhatADeadOwnerIsWaitedForFailsAndNothingElse) {
  if (!in_own_process(kNothingRuns)) return;
  Heard others;
  poller_->watch(recorded(), 1, heard_.note());
  poller_->watch(recorded(), 2, others.note());
  poller_->watch(recorded(), 1, heard_.note());
  poller_->cancel(1, gpu_failure(GpuErrorKind::PeerDied, "killed").error());
  EXPECT_EQ(heard_.wait_for(2), std::vector<std::string>(2, "gpu_peer_died: killed"));
  EXPECT_EQ(poller_->statistics().in_flight, 1U);
  emulator_advances();
  EXPECT_EQ(others.wait_for(1), std::vector<std::string>{"done"});
  poller_->watch(recorded(), 1, heard_.note());
  emulator_advances();
  EXPECT_EQ(heard_.wait_for(3)[2], "done") << "what comes after the cancel is not affected";
}

TEST_F(CompletionPollerTest, ABrokenContextEndsTheWait) {
  if (!in_own_process(kNothingRuns)) return;
  emulator_fails("cuEventQuery:3+:700");
  poller_->watch(recorded(), 1, heard_.note());
  EXPECT_TRUE(heard_.wait_for(1)[0].starts_with("gpu_sticky(700): "));
}

TEST_F(CompletionPollerTest, ACallbackMayWatchTheNextEvent) {
  poller_->watch(recorded(), 1,
                 [&, next = recorded()](Result<void>) { poller_->watch(next, 1, heard_.note()); });
  EXPECT_EQ(heard_.wait_for(1).size(), 1U);
}

TEST_F(CompletionPollerTest, ItsEndIsToldToAllThatWait) {
  if (!in_own_process(kNothingRuns)) return;
  poller_->watch(recorded(), 1, heard_.note());
  poller_->watch(recorded(), 2, heard_.note());
  poller_.reset();
  for (const auto& each : heard_.wait_for(2)) EXPECT_NE(each, "done");
  emulator_advances();
}

TEST_F(CompletionPollerTest, EndsInAForkedChildWithoutItsThread) {
  poller_->watch(recorded(), 1, heard_.note());
  heard_.wait_for(1);
  const pid_t pid = ::fork();
  if (pid == 0) {
    bool refused = false;
    poller_->watch(nullptr, 1, [&](const Result<void>& how) {
      refused = !how && is_gpu_error(how.error(), GpuErrorKind::Forked);
    });
    poller_.reset();
    ::_exit(refused ? 0 : 1);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace tensorferry::cuda
