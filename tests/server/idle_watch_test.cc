#include "idle_watch.h"

#include <gtest/gtest.h>

#include <thread>

namespace tensorferry::server {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(IdleWatchTest, WhileThereIsWorkAWaitTakesItsPeriod) {
  IdleWatch watch;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(watch.wait(milliseconds(20), [] { return false; }));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(20));
}

TEST(IdleWatchTest, AnIdleWaitEndsAPeriodAfterWorkCame) {
  IdleWatch watch;
  std::atomic<int> uses{0};
  std::atomic<bool> over{false};
  std::thread sleeper([&] {
    EXPECT_TRUE(watch.wait(milliseconds(1), [&] { return uses == 0; }));
    over = true;
  });
  std::this_thread::sleep_for(milliseconds(30));
  EXPECT_FALSE(over) << "nothing has happened";
  ++uses;
  watch.work();
  sleeper.join();
}

TEST(IdleWatchTest, StopEndsEveryWait) {
  IdleWatch watch;
  std::thread asleep([&] { EXPECT_FALSE(watch.wait(milliseconds(1), [] { return true; })); });
  std::this_thread::sleep_for(milliseconds(10));
  watch.stop();
  asleep.join();
  EXPECT_FALSE(watch.wait(hours(1), [] { return true; }));
  EXPECT_FALSE(watch.wait(hours(1), [] { return false; }));
}

// Work that comes just when the watch goes to sleep wakes it all the same.
TEST(IdleWatchTest, NoWorkIsMissed) {
  IdleWatch watch;
  constexpr int kRounds = 5000;
  std::atomic<int> uses{0};
  std::thread sleeper([&] {
    for (int seen = 0; seen < kRounds;) {
      EXPECT_TRUE(watch.wait(milliseconds(0), [&] { return uses.load() == seen; }));
      seen = uses.load();
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    uses.fetch_add(1);
    watch.work();
    if (i % 8 == 0) std::this_thread::yield();
  }
  sleeper.join();
}

}  // namespace
}  // namespace tensorferry::server
