#include "restart_policy.h"

#include <gtest/gtest.h>

namespace tensorferry::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RestartPolicyTest, TheFirstDeathIsFollowedByAStartAtOnce) {
  RestartPolicy policy;
  EXPECT_EQ(policy.next_delay(seconds(1)), milliseconds(0));
}

TEST(RestartPolicyTest, DelaysDoubleUpToTheLongest) {
  RestartPolicy policy;
  (void)policy.next_delay(milliseconds(1));
  milliseconds expected = RestartPolicy::kFirst;
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(policy.next_delay(milliseconds(1)), expected) << i;
    expected = std::min(RestartPolicy::kLongest, expected * 2);
  }
}

TEST(RestartPolicyTest, ALongLifeStartsTheCountAnew) {
  RestartPolicy policy;
  for (int i = 0; i < 10; ++i) (void)policy.next_delay(milliseconds(1));
  EXPECT_EQ(policy.next_delay(RestartPolicy::kStable), milliseconds(0));
  EXPECT_EQ(policy.next_delay(milliseconds(1)), RestartPolicy::kFirst);
}

TEST(RestartPolicyTest, ManyDeathsOverflowNothing) {
  RestartPolicy policy;
  for (int i = 0; i < 100'000; ++i) {
    const milliseconds delay = policy.next_delay(milliseconds(1));
    ASSERT_GE(delay, milliseconds(0));
    ASSERT_LE(delay, RestartPolicy::kLongest);
  }
}

}  // namespace
}  // namespace tensorferry::server
