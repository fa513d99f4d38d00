#include <gtest/gtest.h>
#include <tensorferry/transport/arena.h>

#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <thread>

namespace tensorferry {
namespace {

struct Source {
  std::atomic<SegmentId> next{1};  // several threads may grow the arena at once
  Result<std::shared_ptr<Segment>> operator()(std::size_t bytes) {
    return Segment::create(next++, bytes);
  }
};

class ArenaTest : public testing::Test {
 protected:
  Source source_;
  Arena arena_{{.initial_bytes = 1 << 20,
                .growth_bytes = 1 << 20,
                .max_bytes = 8 << 20,
                .keep_idle_bytes = 0},
               [this](std::size_t bytes) { return source_(bytes); }};
};

TEST_F(ArenaTest, BlocksAreAlignedToACacheLineAndFromAPageUpToPages) {
  for (std::size_t bytes : {0u, 1u, 63u, 64u, 100u, 4095u}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena_.allocate(bytes)->data) % 64, 0u) << bytes;
  }
  for (std::size_t bytes : {4096u, 5000u, 100'000u}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena_.allocate(bytes)->data) % 4096, 0u) << bytes;
  }
}

TEST_F(ArenaTest, WhatWasFreedLastIsHandedOutFirst) {
  Block a = arena_.allocate(100'000).value(), b = arena_.allocate(100'000).value();
  ASSERT_TRUE(arena_.release(a.id));
  ASSERT_TRUE(arena_.release(b.id));
  EXPECT_EQ(arena_.allocate(100'000)->data, b.data);
  EXPECT_EQ(arena_.allocate(100'000)->data, a.data);
}

TEST_F(ArenaTest, AStaleNameIsNoticed) {
  Block a = arena_.allocate(8192).value();
  EXPECT_TRUE(arena_.add_holder(a.id));
  EXPECT_TRUE(arena_.release(a.id));
  EXPECT_TRUE(arena_.lookup(a.id));
  EXPECT_TRUE(arena_.release(a.id));
  EXPECT_FALSE(arena_.release(a.id));
  Block again = arena_.allocate(8192).value();
  EXPECT_EQ(again.data, a.data);
  EXPECT_NE(again.id, a.id);
  EXPECT_FALSE(arena_.lookup(a.id));
}

TEST_F(ArenaTest, TheMaximumIsAnErrorWithSizes) {
  auto first = arena_.allocate(6 << 20);
  ASSERT_TRUE(first);
  auto second = arena_.allocate(4 << 20);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::OutOfSharedMemory);
  EXPECT_NE(second.error().message.find("8388608"), std::string::npos) << second.error().message;
  arena_.release(first->id);
  EXPECT_TRUE(arena_.allocate(4 << 20));
}

TEST_F(ArenaTest, TrimGivesIdleSegmentsBack) {
  Block a = arena_.allocate(3 << 20).value();
  EXPECT_GT(arena_.statistics().segment_bytes, 0u);
  arena_.release(a.id);
  EXPECT_GT(arena_.trim(0), 0u);
  EXPECT_EQ(arena_.statistics().segment_bytes, 0u);
  EXPECT_FALSE(arena_.owns(a.data));
}

TEST_F(ArenaTest, RandomUseNeverOverlapsAndLeavesNothing) {
  std::mt19937 random(7);
  std::map<BlockId, std::pair<Block, unsigned char>> held;
  for (int step = 0; step < 20'000; ++step) {
    if (held.size() < 50 && random() % 2) {
      auto block = arena_.allocate(random() % (random() % 4 ? 5000 : 200'000));
      if (!block) continue;
      auto fill = static_cast<unsigned char>(random());
      std::memset(block->data, fill, block->bytes);
      held.emplace(block->id, std::pair(*block, fill));
    } else if (!held.empty()) {
      auto it = std::next(held.begin(), static_cast<std::ptrdiff_t>(random() % held.size()));
      const auto& [block, fill] = it->second;
      for (std::size_t i = 0; i < block.bytes; i += 97) ASSERT_EQ(block.data[i], std::byte{fill});
      if (block.bytes > 0) {
        EXPECT_EQ(arena_.find(block.data + block.bytes - 1)->id, block.id);
      }
      ASSERT_TRUE(arena_.release(block.id));
      held.erase(it);
    }
  }
  for (const auto& [id, rest] : held) arena_.release(id);
  EXPECT_EQ(arena_.bytes_in_use(), 0u);
  EXPECT_EQ(arena_.statistics().blocks_in_use, 0u);
}

TEST_F(ArenaTest, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      for (int i = 0; i < 2000; ++i) {
        auto block = arena_.allocate(4096);
        if (!block) continue;
        std::memset(block->data, thread, block->bytes);
        arena_.release(block->id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena_.bytes_in_use(), 0u);
}

}  // namespace
}  // namespace tensorferry
