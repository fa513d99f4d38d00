// How an arena grows, gives back, and what it costs; arena_test.cc has what a block is.
#include <gtest/gtest.h>
#include <tensorferry/transport/arena.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <latch>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "heap_count.h"
#include "size_classes.h"

namespace tensorferry {
namespace {

constexpr std::size_t kMiB = 1 << 20;

struct Source {
  std::atomic<SegmentId> next{1};
  std::vector<std::size_t> asked;
  std::size_t most = SIZE_MAX;  // refuses more than this at a time

  Arena::SegmentSource get() {
    return [this](std::size_t bytes) -> Result<std::shared_ptr<Segment>> {
      asked.push_back(bytes);
      if (bytes > most) return failure(ErrorCode::OutOfSharedMemory, "the source has no more");
      return Segment::create(next++, bytes);
    };
  }
};

TEST(ArenaGrowth, SizeClassesAreAlignedLoseAFifthAtMostAndNeverShareAnIndex) {
  std::vector<std::size_t> bytes_of(kSizeClasses, 0);
  for (std::size_t power = 0; power <= 46; ++power) {
    for (std::size_t step = 0; step < 64; ++step) {
      const std::size_t bytes = (std::size_t{1} << power) + (step << power) / 64;
      if (bytes > kLargestBlock) continue;
      const SizeClass of = size_class(bytes);
      ASSERT_LT(of.index, kSizeClasses);
      ASSERT_GE(of.bytes, bytes);
      ASSERT_EQ(of.bytes % (bytes > kPage / 2 ? kPage : kBlockAlignment), 0u) << bytes;
      if (bytes > 4 * kPage) {
        ASSERT_LE(of.bytes - bytes, bytes / 4) << bytes;
      }
      if (bytes_of[of.index] == 0) bytes_of[of.index] = of.bytes;
      ASSERT_EQ(bytes_of[of.index], of.bytes) << bytes;
    }
  }
}

TEST(ArenaGrowth, AsksForTheInitialSizeFirstAndForHalfOfAllFromThere) {
  Source source;
  Arena arena({.initial_bytes = 2 * kMiB, .growth_bytes = kMiB, .max_bytes = 64 * kMiB},
              source.get());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(arena.allocate(kMiB));
  EXPECT_EQ(source.asked[0], 2 * kMiB);
  EXPECT_EQ(source.asked[1], kMiB);
  EXPECT_EQ(source.asked[2], 3 * kMiB / 2);
  EXPECT_LT(source.asked.size(), 10u);
  ASSERT_TRUE(arena.allocate(30 * kMiB));
  EXPECT_GE(source.asked.back(), 30 * kMiB);
}

TEST(ArenaGrowth, MakesNothingBeforeTheFirstBlock) {
  Source source;
  Arena arena({}, source.get());
  EXPECT_FALSE(arena.try_allocate(1));
  EXPECT_TRUE(source.asked.empty());
  EXPECT_EQ(arena.statistics().segments, 0u);
}

TEST(ArenaGrowth, TakesWhatIsNeededWhereTheSourceHasNoMore) {
  Source source;
  source.most = 2 * kMiB;
  Arena arena({.initial_bytes = 16 * kMiB, .max_bytes = 64 * kMiB}, source.get());
  EXPECT_TRUE(arena.allocate(2 * kMiB));
  auto refused = arena.allocate(3 * kMiB);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "the source has no more");
}

TEST(ArenaGrowth, HugeSizesAreRefusedAndDisturbNothing) {
  Source source;
  Arena arena({.max_bytes = SIZE_MAX}, source.get());
  for (std::size_t bytes : {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2 + 1, kLargestBlock + 1}) {
    EXPECT_FALSE(arena.try_allocate(bytes)) << bytes;
    auto refused = arena.allocate(bytes);
    ASSERT_FALSE(refused) << bytes;
    EXPECT_EQ(refused.error().code, ErrorCode::OutOfSharedMemory);
  }
  EXPECT_TRUE(source.asked.empty());
  EXPECT_TRUE(arena.allocate(1));
}

// What other threads ask for at the same time counts too.
TEST(ArenaGrowth, StaysUnderItsMaximumHoweverManyThreadsGrowAtOnce) {
  constexpr int kThreads = 8;
  std::atomic<SegmentId> next{1};
  std::atomic<std::size_t> made{0};
  Arena arena({.initial_bytes = kMiB, .growth_bytes = kMiB, .max_bytes = 4 * kMiB},
              [&](std::size_t bytes) {
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
                made += bytes;
                return Segment::create(next++, bytes);
              });
  std::latch start(kThreads);
  std::atomic<int> got{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        if (arena.allocate(kMiB)) ++got;
      });
    }
  }
  EXPECT_EQ(got, 4);
  EXPECT_LE(made, 4 * kMiB);
}

// One thread has asked for all the room there is; another's small block fits into what it brings.
TEST(ArenaGrowth, AThreadWaitsForAnothersSegmentRatherThanFail) {
  std::atomic<SegmentId> next{1};
  std::latch asked(1);
  Arena arena({.initial_bytes = 4 * kMiB, .max_bytes = 4 * kMiB}, [&](std::size_t bytes) {
    asked.count_down();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return Segment::create(next++, bytes);
  });
  std::jthread first([&] { EXPECT_TRUE(arena.allocate(kMiB)); });
  asked.wait();
  EXPECT_TRUE(arena.allocate(kMiB));
}

TEST(ArenaGrowth, JoinsFreedNeighboursIntoALargeBlockBeforeItGrows) {
  Source source;
  Arena arena({.initial_bytes = 4 * kMiB, .max_bytes = 4 * kMiB}, source.get());
  std::vector<BlockId> small;
  for (int i = 0; i < 1000; ++i) small.push_back(arena.allocate(4096)->id);
  for (int i = 0; i < 300; ++i) small.push_back(arena.allocate(100)->id);
  EXPECT_FALSE(arena.allocate(4 * kMiB));
  for (BlockId id : small) ASSERT_TRUE(arena.release(id));
  EXPECT_TRUE(arena.allocate(4 * kMiB));
  EXPECT_EQ(source.asked.size(), 1u);
}

TEST(ArenaGrowth, TrimTellsOfEachSegmentAndSparesWhatIsHeld) {
  Source source;
  std::vector<SegmentId> dropped;
  Arena arena({.initial_bytes = kMiB, .growth_bytes = kMiB, .max_bytes = 64 * kMiB}, source.get(),
              [&](SegmentId id) { dropped.push_back(id); });
  Block first = arena.allocate(100).value();
  Block second = arena.allocate(8 * kMiB).value();
  EXPECT_EQ(arena.trim(0), 0u);
  ASSERT_TRUE(arena.release(second.id));
  EXPECT_EQ(arena.trim(0), 8 * kMiB);
  EXPECT_EQ(dropped, std::vector{second.segment});
  EXPECT_FALSE(arena.owns(second.data));
  EXPECT_FALSE(arena.find(second.data));
  EXPECT_TRUE(arena.owns(first.data));
  ASSERT_TRUE(arena.release(first.id));
  EXPECT_EQ(arena.trim(0), kMiB) << "a page of small blocks is idle when all of them are";
  EXPECT_EQ(arena.statistics().segment_bytes, 0u);
  EXPECT_TRUE(arena.allocate(100));
}

TEST(ArenaGrowth, TrimKeepsWhatFitsUnderTheLimit) {
  Source source;
  Arena arena({.initial_bytes = 8 * kMiB, .growth_bytes = kMiB, .max_bytes = 64 * kMiB},
              source.get());
  Block large = arena.allocate(8 * kMiB).value();
  Block small = arena.allocate(4 * kMiB).value();
  arena.release(large.id);
  arena.release(small.id);
  EXPECT_EQ(arena.trim(4 * kMiB), 8 * kMiB) << "the large one goes, the small one stays";
  EXPECT_TRUE(arena.owns(small.data));
  EXPECT_EQ(arena.trim(4 * kMiB), 0u);
}

TEST(ArenaGrowth, FindsTheBlockOfEachOfItsBytesAndOfNoOther) {
  Source source;
  Arena arena({}, source.get());
  for (std::size_t bytes : {0u, 1u, 100u, 1500u, 2048u, 4096u, 5000u, 70'000u}) {
    Block block = arena.allocate(bytes).value();
    ASSERT_TRUE(arena.find(block.data)) << bytes;
    EXPECT_EQ(arena.find(block.data)->id, block.id);
    EXPECT_EQ(arena.find(block.data)->bytes, bytes);
    if (bytes > 0) {
      EXPECT_EQ(arena.find(block.data + bytes - 1)->id, block.id);
    }
    auto behind = arena.find(block.data + std::max<std::size_t>(bytes, 1));
    if (behind) {
      EXPECT_NE(behind->id, block.id);
    }
  }
  int local = 0;
  EXPECT_FALSE(arena.find(&local));
  EXPECT_FALSE(arena.owns(&local));
  EXPECT_FALSE(arena.owns(nullptr));
}

TEST(ArenaGrowth, NoNameIsEverGivenTwice) {
  Source source;
  Arena arena({}, source.get());
  std::mt19937 random(3);
  std::set<BlockId> seen{0};
  std::vector<BlockId> held;
  for (int i = 0; i < 20'000; ++i) {
    if (held.size() > 20) {
      ASSERT_TRUE(arena.release(held.front()));
      held.erase(held.begin());
    }
    if (i % 997 == 0) arena.trim(0);
    held.push_back(arena.allocate(random() % 9000)->id);
    ASSERT_TRUE(seen.insert(held.back()).second);
  }
  for (BlockId id : seen) EXPECT_EQ(arena.lookup(id).has_value(), std::ranges::count(held, id) > 0);
}

TEST(ArenaGrowth, AWarmArenaAllocatesNothingFromTheHeap) {
  if (!kHeapIsCounted) GTEST_SKIP() << "the sanitizer has its own operator new";
  Source source;
  Arena arena({}, source.get());
  const std::size_t sizes[] = {10, 500, 4096, 20'000, 200'000};
  auto round = [&] {
    std::array<BlockId, 50> held;
    for (std::size_t i = 0; i < held.size(); ++i) held[i] = arena.allocate(sizes[i % 5])->id;
    for (BlockId id : held) arena.add_holder(id);
    for (BlockId id : held) arena.release(id);
    for (BlockId id : held) EXPECT_TRUE(arena.lookup(id));
    for (BlockId id : held) arena.release(id);
  };
  const std::size_t cold = heap_allocations();
  round();
  ASSERT_GT(heap_allocations(), cold) << "the counter counts";
  const std::size_t warm = heap_allocations();
  for (int i = 0; i < 100; ++i) round();
  EXPECT_EQ(heap_allocations(), warm);
}

TEST(ArenaGrowth, OwnsIsRightWhileOthersGrowAndTrim) {
  Source source;
  Arena arena({.initial_bytes = kMiB, .growth_bytes = kMiB, .max_bytes = 64 * kMiB}, source.get());
  Block held = arena.allocate(4096).value();
  std::atomic<bool> stop{false};
  std::vector<std::jthread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      int local = 0;
      while (!stop) {
        ASSERT_TRUE(arena.owns(held.data + 100));
        ASSERT_FALSE(arena.owns(&local));
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    BlockId ids[4];
    for (BlockId& id : ids) id = arena.allocate(2 * kMiB)->id;
    for (BlockId id : ids) arena.release(id);
    arena.trim(0);
  }
  stop = true;
}

TEST(ArenaGrowth, LiveRangesAreThoseOfTheBlocksThatAreHeld) {
  Source source;
  Arena arena({.initial_bytes = kMiB, .growth_bytes = kMiB}, source.get());
  Block a = arena.allocate(1000).value();
  Block b = arena.allocate(2 * kMiB).value();
  Block gone = arena.allocate(1000).value();
  arena.release(gone.id);
  EXPECT_EQ(arena.live_blocks().size(), 2u);
  arena.lock_for_fork();
  auto ranges = arena.live_ranges_locked();
  arena.unlock_after_fork();
  ASSERT_EQ(ranges.size(), 2u);
  std::set<std::pair<std::byte*, std::size_t>> found, wanted{{a.data, 1000}, {b.data, 2 * kMiB}};
  for (const auto& [segment, live] : ranges)
    for (auto range : live) found.emplace(range.data(), range.size());
  EXPECT_EQ(found, wanted);
}

}  // namespace
}  // namespace tensorferry
