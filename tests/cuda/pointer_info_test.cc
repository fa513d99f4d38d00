#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/pinned_region.h>
#include <tensorferry/cuda/pointer_info.h>

#include <sys/mman.h>

#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

class PointerInfoTest : public GpuTest {};

TEST(PointerInfo, MakesNoContextToFindOutThatThereIsNone) {
  if (!in_own_process()) return;
  if (!emulator_has("counters")) return;
  const int here = 0;
  auto info = classify(&here);
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->kind, MemoryKind::Host);
  EXPECT_EQ(emulator_counters().contexts_created, 0U);
}

TEST_F(PointerInfoTest, OfOrdinaryMemoryIsHostAndNoError) {
  const int here = 0;
  auto info = classify(&here);
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->kind, MemoryKind::Host);
  EXPECT_EQ(classify(nullptr)->kind, MemoryKind::Host);
}

TEST_F(PointerInfoTest, OfAnAddressInsideAnAllocationHasItsBaseAndSize) {
  for (ShareMode mode : {ShareMode::Vmm, ShareMode::LegacyIpc}) {
    auto chunk = *Chunk::create(context(), 4 << 20, mode);
    auto info = classify(chunk->base() + 12345);
    ASSERT_TRUE(info) << info.error().message;
    EXPECT_EQ(info->kind, MemoryKind::Device);
    EXPECT_EQ(info->ordinal, 0);
    EXPECT_EQ(info->base, chunk->base());
    EXPECT_EQ(info->bytes, std::size_t{4} << 20);
    EXPECT_EQ(info->posix_fd, mode == ShareMode::Vmm);
    EXPECT_EQ(info->legacy_ipc, mode == ShareMode::LegacyIpc);
    EXPECT_EQ(info->context != nullptr, mode == ShareMode::LegacyIpc);
    EXPECT_FALSE(info->from_mempool);
  }
}

TEST_F(PointerInfoTest, OfTheSecondDeviceNamesIt) {
  if (!has_devices(2)) return;
  auto second = *PrimaryContext::retain(*device_by_ordinal(1));
  auto chunk = *Chunk::create(second, 2 << 20, ShareMode::Vmm);
  EXPECT_EQ(classify(chunk->base())->ordinal, 1);
}

TEST_F(PointerInfoTest, OfMemoryThatIsFreedAndAllocatedAgainHasAnotherBuffer) {
  std::uint64_t last = 0;
  for (int i = 0; i < 4; ++i) {
    auto chunk = *Chunk::create(context(), 2 << 20, ShareMode::LegacyIpc);
    const auto info = classify(chunk->base());
    EXPECT_NE(info->buffer_id, last);
    EXPECT_NE(info->buffer_id, 0U);
    last = info->buffer_id;
  }
}

TEST_F(PointerInfoTest, OfRegisteredMemoryIsPinned) {
  constexpr std::size_t kBytes = 1 << 16;
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  {
    auto region = PinnedRegion::create(context(), {static_cast<std::byte*>(memory), kBytes});
    ASSERT_TRUE(region) << region.error().message;
    EXPECT_EQ(classify(static_cast<std::byte*>(memory) + 5000)->kind, MemoryKind::Pinned);
    auto again = PinnedRegion::create(context(), {static_cast<std::byte*>(memory), 4096});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, ErrorCode::AlreadyExists);
  }
  EXPECT_EQ(classify(memory)->kind, MemoryKind::Host);
  const auto counters = emulator_counters();
  EXPECT_EQ(counters.host_registers, counters.host_unregisters);
  ::munmap(memory, kBytes);
}

}  // namespace
}  // namespace tensorferry::cuda
