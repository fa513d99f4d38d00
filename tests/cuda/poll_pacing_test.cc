#include "poll_pacing.h"

#include <gtest/gtest.h>

namespace tensorferry::cuda {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

const Clock::time_point kBegin{std::chrono::hours(1)};

TEST(ForecastTest, OfNothingSaysNothing) { EXPECT_FALSE(Forecast().window(kBegin)); }

TEST(ForecastTest, OfSteadyWorkIsNarrowAndAroundItsEnd) {
  Forecast forecast;
  for (int i = 0; i < 20; ++i) forecast.note(milliseconds(7) + microseconds(i % 2));
  const auto window = forecast.window(kBegin);
  ASSERT_TRUE(window);
  EXPECT_LT(window->begin, kBegin + milliseconds(7));
  EXPECT_GT(window->end, kBegin + milliseconds(7));
  EXPECT_LT(window->end - window->begin, microseconds(100));
}

TEST(ForecastTest, FollowsWorkThatBecomesLonger) {
  Forecast forecast;
  for (int i = 0; i < 20; ++i) forecast.note(milliseconds(1));
  for (int i = 0; i < 40; ++i) forecast.note(milliseconds(9));
  ASSERT_TRUE(forecast.window(kBegin));
  EXPECT_GT(forecast.window(kBegin)->end, kBegin + milliseconds(9));
}

TEST(ForecastTest, OfUnsteadyWorkSaysNothing) {
  Forecast forecast;
  for (int i = 0; i < 20; ++i) forecast.note(milliseconds(i % 2 == 0 ? 1 : 3));
  EXPECT_FALSE(forecast.window(kBegin));
}

TEST(SleepPacingTest, GetsLongerUpToALimitAndBeginsAnew) {
  SleepPacing pacing;
  EXPECT_EQ(pacing.next(), kShortestSleep);
  for (int i = 0; i < 5; ++i) (void)pacing.next();
  EXPECT_EQ(pacing.next(), kLongestSleep);
  pacing.reset();
  EXPECT_EQ(pacing.next(), kShortestSleep);
}

}  // namespace
}  // namespace tensorferry::cuda
