#include <tensorferry/cuda/device_pool.h>
#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/stream.h>

#include <random>
#include <thread>

#include "fake_driver.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

constexpr std::size_t kMiB = 1 << 20;

class DevicePoolTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    make_pool();
  }
  void TearDown() override {
    if (pool_) {
      EXPECT_EQ(pool_->bytes_in_use(), 0U);
      EXPECT_EQ(pool_->statistics().blocks_in_use, 0U);
    }
    pool_.reset();
    event_.reset();
    stream_.reset();
    if (!IsSkipped()) {
      EXPECT_EQ(emulator_counters().device_bytes, 0U);
    }
    GpuTest::TearDown();
  }
  void make_pool(std::size_t chunk = 4 * kMiB, std::size_t most = 16 * kMiB) {
    pool_ = std::make_unique<DevicePool>(
        context(), DevicePoolOptions{.chunk_bytes = chunk, .max_bytes = most});
  }
  DeviceBlock take(std::size_t bytes) {
    auto block = pool_->allocate(bytes);
    EXPECT_TRUE(block) << block.error().message;
    return block.value_or(DeviceBlock{});
  }
  // An event that is not done before emulator_advances(), under the lazy scheduler.
  EventHandle pending_event() {
    auto guard = enter();
    stream_ = make_stream();
    event_ = std::move(*make_event(false));
    // The lazy scheduler runs nothing that isn't forced.
    EXPECT_TRUE(record(event_.get(), stream_->get()));
    return event_.get();
  }

  std::unique_ptr<DevicePool> pool_;
  std::optional<Stream> stream_;
  Event event_;
};

TEST_F(DevicePoolTest, MakesNoChunkBeforeItHasTo) {
  EXPECT_EQ(pool_->statistics().chunks, 0U);
  EXPECT_FALSE(pool_->try_allocate(100));
  const auto block = take(100);
  EXPECT_EQ(pool_->statistics().chunks, 1U);
  EXPECT_EQ(pool_->chunk(block.chunk)->bytes(), 4 * kMiB);
  EXPECT_TRUE(pool_->release(block.id));
}

TEST_F(DevicePoolTest, GivesAlignedBlocksThatDontOverlap) {
  const auto a = take(1);
  const auto b = take(513);
  const auto c = take(2 * kMiB);
  EXPECT_EQ(a.offset % 512, 0U);
  EXPECT_EQ(b.offset % 512, 0U);
  EXPECT_EQ(c.offset % (2 * kMiB), 0U);
  EXPECT_GE(b.offset, a.offset + 512);
  EXPECT_EQ(c.ptr, pool_->chunk(c.chunk)->base() + c.offset);
  for (const auto& block : {a, b, c}) EXPECT_TRUE(pool_->release(block.id));
}

TEST_F(DevicePoolTest, HasAChunkOfItsOwnForWhatIsLargerThanOne) {
  const auto block = take(9 * kMiB);
  EXPECT_EQ(pool_->chunk(block.chunk)->bytes(), 10 * kMiB);
  EXPECT_TRUE(pool_->release(block.id));
}

TEST_F(DevicePoolTest, FreesABlockWithItsLastHolder) {
  const auto block = take(1000);
  EXPECT_TRUE(pool_->add_holder(block.id, 2));
  EXPECT_TRUE(pool_->release(block.id));
  EXPECT_TRUE(pool_->release(block.id));
  EXPECT_TRUE(pool_->lookup(block.id));
  EXPECT_TRUE(pool_->release(block.id));
  EXPECT_FALSE(pool_->lookup(block.id));
  EXPECT_FALSE(pool_->release(block.id)) << "a stale id";
  EXPECT_FALSE(pool_->add_holder(block.id));
}

TEST_F(DevicePoolTest, FindsTheBlockThatAnAddressLiesIn) {
  const auto block = take(1000);
  EXPECT_EQ(pool_->find(block.ptr + 999)->id, block.id);
  EXPECT_FALSE(pool_->find(block.ptr + 1000));
  EXPECT_FALSE(pool_->find(block.ptr - 1));
  EXPECT_TRUE(pool_->release(block.id));
  EXPECT_FALSE(pool_->find(block.ptr));
}

TEST_F(DevicePoolTest, AtItsMaximumSaysWhatWasAskedUsedAndAllowed) {
  const auto block = take(12 * kMiB);
  auto none = pool_->allocate(6 * kMiB);
  ASSERT_FALSE(none);
  EXPECT_EQ(gpu_word(none.error()), "gpu_oom(pool)");
  EXPECT_EQ(none.error().code, ErrorCode::Unavailable);
  for (const char* size : {"6291456", "12582912", "16777216"})
    EXPECT_NE(none.error().message.find(size), std::string::npos) << none.error().message;
  for (std::size_t below = 0; below < 3 * kMiB; below += 511 * 1000)
    EXPECT_EQ(gpu_word(pool_->allocate(~std::size_t{0} - below).error()), "gpu_oom(pool)") << below;
  EXPECT_FALSE(pool_->try_allocate(~std::size_t{0}));
  EXPECT_EQ(pool_->allocate(0).error().code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(pool_->release(block.id));
}

TEST_F(DevicePoolTest, TakesASmallerChunkWhereTheDeviceHasNoLargerOne) {
  make_pool(8 * kMiB);
  emulator_fails("cuMemCreate:1:2");
  const auto block = take(100);
  EXPECT_EQ(pool_->chunk(block.chunk)->bytes(), 2 * kMiB);
  EXPECT_TRUE(pool_->release(block.id));
}

TEST_F(DevicePoolTest, OnADeviceThatIsFullSaysSo) {
  emulator_fails("cuMemCreate:1+:2");
  auto none = pool_->allocate(100);
  ASSERT_FALSE(none);
  EXPECT_EQ(gpu_word(none.error()), "gpu_oom(device)");
  emulator_fails("");
}

TEST_F(DevicePoolTest, KeepsABlockUntilItsEventsAreDone) {
  if (!in_own_process({{"FAKECUDA_SCHED", "lazy"}, {"FAKECUDA_POLLS", "1000000"}})) return;
  make_pool(2 * kMiB, 2 * kMiB);
  const auto block = take(2 * kMiB);
  int called = 0;
  ASSERT_TRUE(pool_->release_after(block.id, {pending_event()}, 1, [&] { ++called; }));
  EXPECT_EQ(pool_->poll(), 1U);
  EXPECT_FALSE(pool_->allocate(100)) << "the device may still read it";
  EXPECT_EQ(called, 0);
  emulator_advances();
  const auto next = take(100);
  EXPECT_EQ(called, 1);
  EXPECT_EQ(pool_->statistics().waiting, 0U);
  EXPECT_TRUE(pool_->release(next.id));
}

TEST_F(DevicePoolTest, LetsGoAtOnceOfWhatWaitsForNothing) {
  const auto block = take(100);
  bool called = false;
  ASSERT_TRUE(pool_->release_after(block.id, {}, 1, [&] { called = true; }));
  EXPECT_EQ(pool_->poll(), 0U);
  EXPECT_TRUE(called);
  EXPECT_FALSE(pool_->release_after(block.id, {}, 1));
}

TEST_F(DevicePoolTest, KeepsWhatADeadPeerHeldUntilItsEndIsCertain) {
  if (!in_own_process({{"FAKECUDA_SCHED", "lazy"}, {"FAKECUDA_POLLS", "1000000"}})) return;
  const auto held = take(100);
  const auto waiting = take(100);
  const auto others = take(100);
  bool called = false;
  ASSERT_TRUE(pool_->quarantine(held.id, 7));
  ASSERT_TRUE(pool_->release_after(waiting.id, {pending_event()}, 7, [&] { called = true; }));
  ASSERT_TRUE(pool_->release_after(others.id, {}, 8));
  pool_->quarantine(PeerId{7});
  EXPECT_EQ(pool_->statistics().quarantined, 2U);
  emulator_advances();
  EXPECT_EQ(pool_->poll(), 0U);
  EXPECT_TRUE(pool_->lookup(held.id) && pool_->lookup(waiting.id));
  pool_->end_quarantine(8);
  EXPECT_TRUE(pool_->lookup(held.id));
  pool_->end_quarantine(7);
  EXPECT_FALSE(pool_->lookup(held.id) || pool_->lookup(waiting.id));
  EXPECT_FALSE(called) << "the dead peer's events are to be retired";
}

TEST_F(DevicePoolTest, GivesIdleChunksBackButNoOthers) {
  const auto small = take(100);
  const auto large = take(8 * kMiB);
  EXPECT_TRUE(pool_->withdraw_idle(0).empty());
  EXPECT_TRUE(pool_->release(large.id));
  EXPECT_TRUE(pool_->withdraw_idle(8 * kMiB).empty()) << "kept for the next one";
  auto gone = pool_->withdraw_idle(0);
  ASSERT_EQ(gone.size(), 1U);
  EXPECT_EQ(gone[0].first, large.chunk);
  EXPECT_EQ(pool_->chunk(large.chunk), nullptr);
  EXPECT_EQ(pool_->statistics().chunk_bytes, 12 * kMiB) << "its memory is there until let go of";
  EXPECT_FALSE(pool_->allocate(8 * kMiB));
  gone.clear();
  EXPECT_EQ(pool_->statistics().chunk_bytes, 4 * kMiB);
  EXPECT_TRUE(pool_->release(small.id));
}

TEST_F(DevicePoolTest, UsesFreedRangesAgainWithoutGrowing) {
  for (int round = 0; round < 50; ++round) {
    const auto a = take(kMiB);
    const auto b = take(3 * kMiB / 2);
    EXPECT_TRUE(pool_->release(a.id));
    EXPECT_TRUE(pool_->release(b.id));
  }
  EXPECT_EQ(pool_->statistics().chunks, 1U);
}

TEST_F(DevicePoolTest, NeverHandsOutAByteTwice) {
  std::mt19937 random(1);
  std::vector<DeviceBlock> held;
  for (int step = 0; step < 3000; ++step) {
    if (held.size() < 40 && random() % 2 == 0) {
      const std::size_t bytes = 1 + random() % (random() % 8 == 0 ? 2 * kMiB : 20000);
      auto block = pool_->allocate(bytes);
      if (!block) continue;
      for (const auto& other : held)
        EXPECT_TRUE(block->ptr + block->bytes <= other.ptr ||
                    other.ptr + other.bytes <= block->ptr);
      held.push_back(*block);
    } else if (!held.empty()) {
      const std::size_t at = random() % held.size();
      EXPECT_TRUE(pool_->release(held[at].id));
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  for (const auto& block : held) EXPECT_TRUE(pool_->release(block.id));
  const std::size_t chunks = pool_->statistics().chunks;
  EXPECT_EQ(pool_->withdraw_idle(0).size(), chunks) << "all ranges have come together again";
}

TEST_F(DevicePoolTest, ServesSeveralThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        auto block = pool_->allocate(kMiB / 2);
        if (block) {
          EXPECT_TRUE(pool_->release_after(block->id, {}, 1));
        }
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(pool_->poll(), 0U);
}

TEST_F(DevicePoolTest, LosesNothingWhereverTheDriverRunsOutOfMemory) {
  int failures = 0;
  for (const char* call : {"cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess",
                           "cuMemGetAllocationGranularity", "cuCtxPushCurrent_v2"}) {
    for (int nth = 1;; ++nth) {
      make_pool();
      emulator_fails(std::string(call) + ":" + std::to_string(nth) + "+:2");
      auto first = pool_->allocate(3 * kMiB);
      auto second = pool_->allocate(3 * kMiB);
      emulator_fails("");
      if (first) {
        EXPECT_TRUE(pool_->release(first->id));
      }
      if (second) {
        EXPECT_TRUE(pool_->release(second->id));
      }
      EXPECT_EQ(pool_->bytes_in_use(), 0U);
      pool_.reset();
      EXPECT_EQ(emulator_counters().device_bytes, 0U) << call << " " << nth;
      EXPECT_EQ(emulator_counters().maps, emulator_counters().unmaps) << call << " " << nth;
      if (first && second) break;
      ++failures;
    }
  }
  EXPECT_GE(failures, 12);
}

}  // namespace
}  // namespace tensorferry::cuda
