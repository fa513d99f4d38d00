#include <tensorferry/cuda/import_cache.h>

#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

class ImportCacheTest : public GpuTest {
 protected:
  // What stands for opening a peer's chunk.
  ImportCache::Opener opener() {
    return [this]() -> Result<std::shared_ptr<Chunk>> {
      ++opened_;
      return Chunk::create(context(), 2 << 20, ShareMode::Vmm);
    };
  }
  static ImportKey key(std::uint64_t peer, std::uint64_t buffer) {
    return {.peer = peer, .device = {}, .buffer_id = buffer};
  }
  ImportCache cache_;
  int opened_ = 0;
};

TEST_F(ImportCacheTest, OpensEachAllocationOnce) {
  auto first = cache_.get(key(1, 10), opener());
  auto again = cache_.get(key(1, 10), opener());
  ASSERT_TRUE(first && again);
  EXPECT_EQ(*first, *again);
  EXPECT_EQ(opened_, 1);
  EXPECT_EQ(cache_.counts().opened, 1U);
  EXPECT_EQ(cache_.counts().found, 1U);
  EXPECT_EQ(cache_.find(key(1, 11)), nullptr);
}

TEST_F(ImportCacheTest, TellsPeersDevicesAndAllocationsApart) {
  ImportKey other_device = key(1, 10);
  other_device.device.bytes[0] = 1;
  for (const ImportKey& each : {key(1, 10), key(1, 11), key(2, 10), other_device})
    EXPECT_TRUE(cache_.get(each, opener()));
  EXPECT_EQ(opened_, 4);
}

TEST_F(ImportCacheTest, ForgetsWhatItsOwnerFreesAndADeadPeersAll) {
  for (std::uint64_t buffer = 0; buffer < 3; ++buffer)
    EXPECT_TRUE(cache_.get(key(1, buffer), opener()));
  EXPECT_TRUE(cache_.get(key(2, 0), opener()));
  EXPECT_TRUE(cache_.drop(key(1, 1)));
  EXPECT_FALSE(cache_.drop(key(1, 1)));
  EXPECT_EQ(cache_.drop_peer(1), 2U);
  EXPECT_EQ(cache_.size(), 1U);
}

TEST_F(ImportCacheTest, WhatIsInUseStaysMappedWhenItIsDropped) {
  if (!emulator_has("counters")) return;
  auto used = *cache_.get(key(1, 1), opener());
  const auto unmaps = emulator_counters().unmaps;
  EXPECT_TRUE(cache_.drop(key(1, 1)));
  EXPECT_EQ(emulator_counters().unmaps, unmaps);
  used.reset();
  EXPECT_EQ(emulator_counters().unmaps, unmaps + 1);
}

TEST_F(ImportCacheTest, AFailureIsNotRemembered) {
  auto failed = cache_.get(key(1, 1), []() -> Result<std::shared_ptr<Chunk>> {
    return failure(ErrorCode::Unavailable, "not now");
  });
  EXPECT_FALSE(failed);
  EXPECT_TRUE(cache_.get(key(1, 1), opener()));
}

}  // namespace
}  // namespace tensorferry::cuda
