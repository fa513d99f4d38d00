// A model's memory in the server.
#include "host_arena.h"

#include <gmock/gmock.h>

namespace tensorferry::server {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Told final : HostArena::Subscriber {
  void on_segment(const HostArena&, const Segment& segment) override {
    added.push_back(segment.id());
  }
  void on_segment_dropped(SegmentId id) override { dropped.push_back(id); }
  std::vector<SegmentId> added, dropped;
};

class HostArenaTest : public testing::Test {
 protected:
  static constexpr std::size_t kMiB = 1 << 20;
  std::shared_ptr<HostArena> make(std::size_t keep) {
    return std::make_shared<HostArena>(segments_, ArenaOptions{kMiB, kMiB, 64 * kMiB, keep});
  }
  std::shared_ptr<SegmentAuthority> segments_ = std::make_shared<SegmentAuthority>();
};

TEST_F(HostArenaTest, SubscribersAreToldOfWhatIsThereAndOfWhatComes) {
  auto arena = make(0);
  Told early, late;
  arena->subscribe(early);
  Buffer first = arena->allocate(kMiB).value();
  EXPECT_THAT(early.added, ElementsAre(1));
  arena->subscribe(late);
  EXPECT_THAT(late.added, ElementsAre(1));
  Buffer second = arena->allocate(kMiB).value();
  EXPECT_THAT(late.added, ElementsAre(1, 2));
  arena->unsubscribe(early);
  Buffer third = arena->allocate(kMiB).value();
  EXPECT_THAT(early.added, ElementsAre(1, 2));
  arena->unsubscribe(late);
}

TEST_F(HostArenaTest, IdleSegmentsAreDroppedDownToWhatIsKept) {
  auto arena = make(2 * kMiB);
  Told told;
  arena->subscribe(told);
  {
    std::vector<Buffer> held;
    for (int i = 0; i < 5; ++i) held.push_back(arena->allocate(kMiB).value());
    EXPECT_EQ(arena->arena().trim(), 0u);
  }
  EXPECT_GT(arena->arena().trim(), 0u);
  EXPECT_LE(arena->arena().statistics().segment_bytes, 2 * kMiB);
  EXPECT_FALSE(told.dropped.empty());
  Told later;
  arena->subscribe(later);
  for (SegmentId id : told.dropped) EXPECT_THAT(later.added, testing::Not(testing::Contains(id)));
  arena->unsubscribe(told);
  arena->unsubscribe(later);
}

TEST_F(HostArenaTest, WhatIsHeldIsNeverDropped) {
  auto arena = make(0);
  Told told;
  arena->subscribe(told);
  Buffer held = arena->allocate(kMiB).value();
  held.bytes()[77] = std::byte{7};
  EXPECT_EQ(arena->arena().trim(), 0u);
  EXPECT_THAT(told.dropped, IsEmpty());
  EXPECT_EQ(held.bytes()[77], std::byte{7});
  held = {};
  EXPECT_GE(arena->arena().trim(), kMiB);
  EXPECT_THAT(told.dropped, ElementsAre(1));
  arena->unsubscribe(told);
}

TEST_F(HostArenaTest, TakingAndLettingGoAreUses) {
  auto arena = make(0);
  const auto before = arena->uses();
  Buffer held = arena->allocate(kMiB).value();
  const auto taken = arena->uses();
  EXPECT_GT(taken, before);
  held = {};
  EXPECT_GT(arena->uses(), taken);
  const auto after = arena->uses();
  arena->arena().trim();
  EXPECT_EQ(arena->uses(), after) << "trimming itself is none";
}

}  // namespace
}  // namespace tensorferry::server
