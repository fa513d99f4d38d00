#include <gtest/gtest.h>
#include <tensorferry/transport/spin.h>

namespace tensorferry {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

// A CPU whose time goes on by what is done only: a yield takes as long as the test says.
struct Played {
  static inline std::chrono::steady_clock::time_point time;
  static inline nanoseconds yield_takes{1000};
  static inline int pauses = 0, yields = 0, looks = 0;

  static std::chrono::steady_clock::time_point now() noexcept {
    ++looks;
    return time;
  }
  static void pause() noexcept { ++pauses; }
  static void yield() noexcept {
    ++yields;
    time += yield_takes;
  }
};

class AdaptiveSpinTest : public testing::Test {
 protected:
  void SetUp() override {
    Played::time = {};
    Played::yield_takes = kAtOnce;
    forget();
  }
  static void forget() { Played::pauses = Played::yields = Played::looks = 0; }

  // One wait that nothing ends.
  void in_vain() {
    forget();
    EXPECT_FALSE(spin_.wait([] { return false; }));
  }
  // One wait that ends after so many yields.
  void ends_after(int yields) {
    forget();
    EXPECT_TRUE(spin_.wait([&] { return Played::yields >= yields; }));
  }
  // The sleep after a wait in vain ends this long after the wait's begin.
  void sleep_until(microseconds since_begin) {
    Played::time += since_begin - Played::yields * Played::yield_takes;
    spin_.woke();
  }
  // How many pauses and how much budget the next wait in vain would have: seen on a copy.
  int pauses() const {
    auto copy = spin_;
    forget();
    EXPECT_FALSE(copy.wait([] { return false; }));
    return Played::pauses;
  }
  microseconds budget() const {
    auto copy = spin_;
    forget();
    EXPECT_FALSE(copy.wait([] { return false; }));
    return microseconds(Played::looks - 2);  // at its begin, and beyond its end
  }

  static constexpr nanoseconds kAtOnce{1000};    // nobody else ran
  static constexpr nanoseconds kSwitched{2000};  // somebody else did
  AdaptiveSpinOn<Played> spin_;
};

TEST_F(AdaptiveSpinTest, WhatIsThereAlreadyCostsNothing) {
  EXPECT_TRUE(spin_.wait([] { return true; }));
  EXPECT_EQ(Played::pauses + Played::yields + Played::looks, 0);
}

TEST_F(AdaptiveSpinTest, WhatComesAtOnceCostsPausesOnly) {
  EXPECT_TRUE(spin_.wait([] { return Played::pauses == 10; }));
  EXPECT_EQ(Played::yields + Played::looks, 0);
}

TEST_F(AdaptiveSpinTest, AWaitInVainEndsWithItsBudget) {
  in_vain();
  EXPECT_EQ(Played::pauses, 24);
  EXPECT_EQ(Played::yields, 51) << "50 us in yields of 1 us, and the one that goes beyond";
}

TEST_F(AdaptiveSpinTest, WakingAfterALongSleepHalvesTheBudgetDownToItsLeast) {
  for (int expected : {50, 25, 12, 6, 5, 5}) {
    EXPECT_EQ(budget(), microseconds(expected));
    in_vain();
    sleep_until(microseconds(10'000));
  }
}

TEST_F(AdaptiveSpinTest, WakingSoonAfterTheBudgetMakesItTheLargest) {
  in_vain();
  sleep_until(microseconds(10'000));
  in_vain();
  sleep_until(microseconds(99));
  EXPECT_EQ(budget(), microseconds(100)) << "so long would have met what came";
  in_vain();
  sleep_until(microseconds(100));
  EXPECT_EQ(budget(), microseconds(50)) << "so long would not";
}

TEST_F(AdaptiveSpinTest, AnAnswerSetsTheBudgetToTwiceItsTimeAndALittle) {
  ends_after(10);
  EXPECT_EQ(budget(), microseconds(25));
  ends_after(20);
  EXPECT_EQ(budget(), microseconds(45));
  ends_after(45);
  EXPECT_EQ(budget(), microseconds(95));
  ends_after(90);
  EXPECT_EQ(budget(), microseconds(100)) << "the largest";
}

TEST_F(AdaptiveSpinTest, APeerOnACpuOfItsOwnIsPausedForLongerUpToALimit) {
  for (int expected : {24, 48, 96, 192, 192}) {
    EXPECT_EQ(pauses(), expected);
    ends_after(1);
  }
}

TEST_F(AdaptiveSpinTest, APeerThatSharesOurCpuIsPausedForLessDownToOnce) {
  Played::yield_takes = kSwitched;
  for (int expected : {24, 12, 6, 3, 1}) {
    EXPECT_EQ(pauses(), expected);
    ends_after(1);
  }
}

TEST_F(AdaptiveSpinTest, WaitsInVainMakeThePausesFewer) {
  for (int expected : {24, 12, 6, 3, 1}) {
    EXPECT_EQ(pauses(), expected);
    in_vain();
  }
}

TEST_F(AdaptiveSpinTest, OnASharedCpuTheClockIsLookedAtNowAndThenOnly) {
  Played::yield_takes = kSwitched;
  for (int i = 0; i < 4; ++i) ends_after(1);
  int looked = 0;
  for (int i = 0; i < 64; ++i) {
    ends_after(1);
    looked += Played::looks != 0;
  }
  EXPECT_EQ(looked, 4) << "every sixteenth time";
}

TEST_F(AdaptiveSpinTest, ASharedCpuThatBecomesFreeIsNoticed) {
  Played::yield_takes = kSwitched;
  for (int i = 0; i < 4; ++i) ends_after(1);
  EXPECT_EQ(pauses(), 1);
  Played::yield_takes = kAtOnce;
  for (int i = 0; i < 16; ++i) ends_after(1);
  EXPECT_EQ(pauses(), 2);
}

}  // namespace
}  // namespace tensorferry
