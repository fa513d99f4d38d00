// A device that takes so long each time, against a poller that only has a clock: how late is it,
// and how often does it look?
#include "poll_pacing.h"

#include <gtest/gtest.h>

#include <vector>

namespace tensorferry::cuda {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct Seen {
  PollTime late;
  int naps;
};

// Each look takes a microsecond.
Seen one_wait(UsualTime& usual, PollTime takes) {
  PollTime now = usual.expected();
  int naps = now == PollTime::zero() ? 0 : 1;
  std::optional<PollTime> not_done_at;
  while (now < takes) {
    not_done_at = now;
    const PollTime pause = nap(now, usual.expected(), usual.spin());
    naps += pause == PollTime::zero() ? 0 : 1;
    now += std::max<PollTime>(pause, microseconds(1));
  }
  usual.learn(not_done_at);
  return {now - takes, naps};
}

std::vector<Seen> waits(UsualTime& usual, const std::vector<PollTime>& times) {
  std::vector<Seen> all;
  for (PollTime takes : times) all.push_back(one_wait(usual, takes));
  return all;
}

TEST(PollPacing, AnUnknownWaitIsLateByASixteenthAtMost) {
  for (const PollTime takes : {PollTime(microseconds(5)), PollTime(microseconds(90)),
                               PollTime(microseconds(700)), PollTime(milliseconds(30))}) {
    UsualTime usual;
    const PollTime late = one_wait(usual, takes).late;
    EXPECT_LE(late, std::clamp(takes / 15, PollTime(kShortestNap), kLongestNap)) << takes.count();
  }
}

TEST(PollPacing, WhatTakesTheSameTimeAgainCostsOneNapAndIsSeenAtOnce) {
  for (const PollTime takes :
       {PollTime(microseconds(100)), PollTime(microseconds(250)), PollTime(milliseconds(5))}) {
    UsualTime usual;
    waits(usual, std::vector<PollTime>(200, takes));
    const Seen seen = one_wait(usual, takes);
    EXPECT_LE(seen.late, microseconds(1)) << takes.count();
    EXPECT_LE(seen.naps, 1) << takes.count();
  }
}

TEST(PollPacing, SomeLongOnesDoNotMakeTheShortOnesLate) {
  UsualTime usual;
  for (int i = 0; i < 200; ++i) {
    const Seen seen = one_wait(usual, microseconds(100));
    EXPECT_LE(seen.late, microseconds(50)) << i;
    one_wait(usual, milliseconds(1));
  }
}

TEST(PollPacing, IsSoonThereWhenThingsGetShorter) {
  UsualTime usual;
  waits(usual, std::vector<PollTime>(500, milliseconds(50)));
  ASSERT_GT(usual.expected(), milliseconds(40));
  const auto after = waits(usual, std::vector<PollTime>(12, microseconds(200)));
  EXPECT_LE(after.back().late, microseconds(20));
}

TEST(PollPacing, OneThatWasShortChangesLittle) {
  UsualTime usual;
  waits(usual, std::vector<PollTime>(300, microseconds(500)));
  one_wait(usual, microseconds(300));
  EXPECT_LE(one_wait(usual, microseconds(500)).naps, 3);
}

TEST(PollPacing, IsWokenAsMuchEarlierAsSleepsAreLate) {
  Oversleep oversleep;
  const std::chrono::steady_clock::time_point now(std::chrono::hours(1));
  EXPECT_EQ(oversleep.alarm(now, now + milliseconds(1)), now + milliseconds(1));
  for (int i = 0; i < 100; ++i) oversleep.learn(microseconds(60));
  const PollTime asked = oversleep.alarm(now, now + milliseconds(1)) - now;
  EXPECT_NEAR(std::chrono::duration<double>(asked).count(), 940e-6, 1e-6);
  EXPECT_EQ(oversleep.alarm(now, now + microseconds(30)), now + kShortestNap) << "it does sleep";
  EXPECT_EQ(oversleep.alarm(now, now - microseconds(1)), now - microseconds(1)) << "it is late";
}

TEST(PollPacing, SpinsLongerWhereTheTimesDifferALittle) {
  UsualTime usual;
  std::vector<PollTime> late;
  for (int i = 0; i < 400; ++i) {
    const Seen seen = one_wait(usual, microseconds(500 + 7 * i % 40));
    if (i >= 200) late.push_back(seen.late);
  }
  std::ranges::nth_element(late, late.begin() + 100);
  EXPECT_LE(late[100], microseconds(1));
}

TEST(PollPacing, DoesNotSpinForWhatDiffersMuch) {
  UsualTime usual;
  for (int i = 0; i < 400; ++i) one_wait(usual, microseconds(i % 2 == 0 ? 500 : 2000));
  EXPECT_EQ(usual.spin(), kSpin);
}

TEST(PollPacing, WhatIsAlwaysDoneAtOnceIsLookedAtAtOnce) {
  UsualTime usual;
  for (int i = 0; i < 1000; ++i) usual.learn(std::nullopt);
  EXPECT_EQ(usual.expected(), PollTime::zero());
  waits(usual, std::vector<PollTime>(300, microseconds(500)));
  EXPECT_GT(usual.expected(), microseconds(300)) << "it still learns";
}

TEST(PollPacing, NeverExpectsMoreThanATenthOfASecond) {
  UsualTime usual;
  waits(usual, std::vector<PollTime>(500, std::chrono::seconds(2)));
  EXPECT_LE(usual.expected(), milliseconds(100));
}

}  // namespace
}  // namespace tensorferry::cuda
