#include <tensorferry/transport/range_table.h>

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace tensorferry {
namespace {

TEST(RangeTable, TakesNeighboursAndRefusesEveryOverlap) {
  RangeTable table;
  ASSERT_TRUE(table.insert(1, 1, 100, 100));
  EXPECT_TRUE(table.insert(2, 1, 200, 50));
  EXPECT_TRUE(table.insert(3, 1, 50, 50));
  EXPECT_TRUE(table.insert(4, 2, 100, 100)) << "another segment";
  for (auto [offset, bytes] : {std::pair<std::uint64_t, std::uint64_t>{100, 100},
                               {100, 1},
                               {199, 1},
                               {150, 10},
                               {0, 51},
                               {0, 1000},
                               {249, UINT64_MAX}}) {
    auto overlap = table.insert(9, 1, offset, bytes);
    ASSERT_FALSE(overlap) << offset << " " << bytes;
    EXPECT_EQ(overlap.error().code, ErrorCode::Protocol);
    EXPECT_FALSE(table.contains(9));
  }
  EXPECT_EQ(table.size(), 4u);
  EXPECT_EQ(table.bytes(), 300u);
}

TEST(RangeTable, RefusesALeaseThatIsOut) {
  RangeTable table;
  ASSERT_TRUE(table.insert(1, 1, 0, 10));
  auto twice = table.insert(1, 1, 100, 10);
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, ErrorCode::Protocol);
  EXPECT_EQ(table.bytes(), 10u);
}

TEST(RangeTable, ForgetsOnceWhatIsGivenBack) {
  RangeTable table;
  ASSERT_TRUE(table.insert(1, 1, 0, 10));
  EXPECT_TRUE(table.erase(1));
  EXPECT_FALSE(table.erase(1));
  EXPECT_FALSE(table.erase(77));
  EXPECT_TRUE(table.empty());
  EXPECT_TRUE(table.insert(2, 1, 0, 10));
}

TEST(RangeTable, EmptyRangesOverlapNothing) {
  RangeTable table;
  ASSERT_TRUE(table.insert(1, 1, 0, 100));
  EXPECT_TRUE(table.insert(2, 1, 50, 0));
  EXPECT_TRUE(table.insert(3, 1, 50, 0));
  EXPECT_TRUE(table.erase(2));
  EXPECT_TRUE(table.erase(1));
  EXPECT_TRUE(table.insert(4, 1, 40, 20));
  EXPECT_TRUE(table.erase(3));
  EXPECT_EQ(table.bytes(), 20u);
}

TEST(RangeTable, AgreesWithATableOfSingleBytes) {
  std::mt19937 random(1);
  RangeTable table;
  std::map<std::pair<SegmentId, std::uint64_t>, std::uint64_t> owner;  // byte → lease
  std::map<std::uint64_t, std::uint64_t> out;                          // lease → bytes
  for (std::uint64_t lease = 1; lease < 4000; ++lease) {
    if (!out.empty() && random() % 2) {
      auto victim = std::next(out.begin(), static_cast<long>(random() % out.size()));
      ASSERT_TRUE(table.erase(victim->first));
      std::erase_if(owner, [&](const auto& one) { return one.second == victim->first; });
      out.erase(victim);
    }
    SegmentId segment = random() % 2;
    std::uint64_t offset = random() % 200, bytes = random() % 12;
    bool free = true;
    for (std::uint64_t at = offset; at < offset + bytes; ++at)
      free &= !owner.contains({segment, at});
    ASSERT_EQ(table.insert(lease, segment, offset, bytes).has_value(), free);
    if (!free) continue;
    for (std::uint64_t at = offset; at < offset + bytes; ++at) owner[{segment, at}] = lease;
    out[lease] = bytes;
    ASSERT_EQ(table.size(), out.size());
    ASSERT_EQ(table.bytes(), owner.size());
  }
  std::size_t visited = 0;
  table.for_each([&](SegmentId, std::uint64_t, std::uint64_t bytes) { visited += bytes; });
  EXPECT_EQ(visited, owner.size());
}

}  // namespace
}  // namespace tensorferry
