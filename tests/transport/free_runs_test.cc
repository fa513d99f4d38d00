#include <gtest/gtest.h>
#include <tensorferry/transport/free_runs.h>

namespace tensorferry {
namespace {

TEST(FreeRuns, GivesTheSmallestThatFits) {
  FreeRuns runs;
  runs.add_segment(1, 1000);
  runs.add_segment(2, 500);
  EXPECT_EQ(runs.take(400)->segment, 2U);
  EXPECT_EQ(runs.take(200)->segment, 1U);
  EXPECT_FALSE(runs.take(2000));
}

TEST(FreeRuns, GivesAMultipleOfTheAlignmentAndKeepsWhatWasSkipped) {
  FreeRuns runs;
  runs.add_segment(1, 4096);
  EXPECT_EQ(runs.take(100)->offset, 0U);
  const auto aligned = runs.take(1024, 1024);
  ASSERT_TRUE(aligned);
  EXPECT_EQ(aligned->offset, 1024U);
  EXPECT_EQ(runs.take(924)->offset, 100U) << "what lies before it is free still";
}

TEST(FreeRuns, LooksFurtherWhereARunIsLargeEnoughButNotAligned) {
  FreeRuns runs;
  runs.add_segment(1, 1024 + 512);
  EXPECT_TRUE(runs.take(512));  // leaves 1024 bytes at 512
  runs.add_segment(2, 4096);
  EXPECT_EQ(runs.take(1024, 1024)->segment, 2U);
}

TEST(FreeRuns, JoinsWhatComesBackWithItsNeighbours) {
  FreeRuns runs;
  runs.add_segment(1, 3000);
  const auto a = *runs.take(1000);
  const auto b = *runs.take(1000);
  const auto c = *runs.take(1000);
  runs.give(a);
  runs.give(c);
  EXPECT_FALSE(runs.is_idle(1, 3000));
  runs.give(b);
  EXPECT_TRUE(runs.is_idle(1, 3000));
  runs.remove_idle(1, 3000);
  EXPECT_FALSE(runs.take(1));
}

}  // namespace
}  // namespace tensorferry
