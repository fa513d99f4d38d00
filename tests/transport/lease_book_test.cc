#include <gtest/gtest.h>
#include <tensorferry/transport/lease_book.h>

namespace tensorferry {
namespace {

class LeaseBookTest : public testing::Test {
 protected:
  LeaseBook::Range range() {
    const Block block = arena.allocate(4096).value();
    return {block.id, block.segment, block.offset, block.bytes, block.data};
  }
  Arena arena{{}, [](std::size_t bytes) { return Segment::create(1, bytes); }};
  LeaseBook book{arena};
};

TEST_F(LeaseBookTest, LendingHoldsTheBlockOnceMorePerLease) {
  const auto lent = range();
  const std::uint64_t one = book.lend(lent), other = book.lend(lent);
  EXPECT_NE(one, other);
  arena.release(lent.block);
  EXPECT_TRUE(book.release(one));
  EXPECT_GT(arena.bytes_in_use(), 0u);
  EXPECT_TRUE(book.release(other));
  EXPECT_EQ(arena.bytes_in_use(), 0u);
}

TEST_F(LeaseBookTest, AHoldThatIsTakenOverGoesWithItsLease) {
  const std::uint64_t lease = book.lend_held(range());
  EXPECT_EQ(book.size(), 1u);
  EXPECT_TRUE(book.release(lease));
  EXPECT_FALSE(book.release(lease)) << "given back twice";
  EXPECT_EQ(arena.bytes_in_use(), 0u);
}

TEST_F(LeaseBookTest, WhatIsTakenSaysWhatItWas) {
  const auto lent = range();
  const std::uint64_t lease = book.lend_held(lent);
  const auto taken = book.take(lease);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->block, lent.block);
  EXPECT_FALSE(book.take(lease));
  EXPECT_TRUE(arena.release(taken->block));
}

TEST_F(LeaseBookTest, ALeaseThatIsTakenBackLeavesItsHoldToTheCaller) {
  const auto lent = range();
  const std::uint64_t lease = book.lend_held(lent);
  EXPECT_TRUE(book.take_back(lease));
  EXPECT_FALSE(book.take_back(lease));
  EXPECT_FALSE(book.release(lease));
  EXPECT_TRUE(arena.release(lent.block));
  EXPECT_EQ(arena.bytes_in_use(), 0u);
}

TEST_F(LeaseBookTest, NumbersAreNeverUsedAgain) {
  std::uint64_t last = 0;
  for (int i = 0; i < 10; ++i) {
    const std::uint64_t lease = book.lend_held(range());
    EXPECT_GT(lease, last);
    last = lease;
    EXPECT_TRUE(book.release(lease));
    EXPECT_FALSE(book.find(lease));
  }
}

TEST_F(LeaseBookTest, WhatADeadPeerHeldIsVoidAtOnce) {
  for (int i = 0; i < 5; ++i) book.lend_held(range());
  book.clear();
  EXPECT_EQ(book.size(), 0u);
  EXPECT_EQ(arena.bytes_in_use(), 0u);
}

TEST(LeaseRange, ContainsWhatLiesInsideAndNeverOverflows) {
  const LeaseBook::Range range{1, 3, 4096, 8192, nullptr};
  EXPECT_TRUE(range.contains(3, 4096, 8192));
  EXPECT_TRUE(range.contains(3, 12288, 0));
  EXPECT_FALSE(range.contains(4, 4096, 1)) << "another segment";
  EXPECT_FALSE(range.contains(3, 4095, 1));
  EXPECT_FALSE(range.contains(3, 4097, 8192));
  EXPECT_FALSE(range.contains(3, 4096, UINT64_MAX));
  EXPECT_FALSE(range.contains(3, UINT64_MAX, 2));
}

}  // namespace
}  // namespace tensorferry
