#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device_copy.h>

#include <cstring>
#include <numeric>

#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

using Numbers = std::vector<std::int64_t>;

std::optional<Gather> plan(const Numbers& shape, const Numbers& strides, std::size_t element = 4) {
  return plan_gather(shape, strides, element);
}

TEST(Gather, OfAPackedArrayIsOneRow) {
  const auto gather = plan({2, 3, 4}, {48, 16, 4});
  ASSERT_TRUE(gather);
  EXPECT_TRUE(gather->packed());
  EXPECT_EQ(gather->bytes(), 96U);
}

TEST(Gather, OfASliceIsRowsAndOfASliceOfSlicesIsThreeDimensional) {
  const auto rows = plan({10, 6}, {64, 4});
  ASSERT_TRUE(rows);
  EXPECT_EQ(rows->width, 24U);
  EXPECT_EQ(rows->height, 10U);
  EXPECT_EQ(rows->pitch, 64U);
  const auto slices = plan({5, 10, 6}, {64 * 16, 64, 4});
  ASSERT_TRUE(slices);
  EXPECT_EQ(slices->depth, 5U);
  EXPECT_EQ(slices->slice_pitch, 1024U);
}

TEST(Gather, OfEverySecondElementTakesElementsAsRows) {
  const auto gather = plan({8}, {8});
  ASSERT_TRUE(gather);
  EXPECT_EQ(gather->width, 4U);
  EXPECT_EQ(gather->height, 8U);
}

TEST(Gather, DoesNotMindTheStridesOfAxesOfLengthOne) {
  EXPECT_TRUE(plan({1, 3, 1}, {-7, 4, 9999})->packed());
  EXPECT_TRUE(plan({}, {})->packed());
}

TEST(Gather, OfNothingIsNothing) { EXPECT_EQ(plan({3, 0, 4}, {1, 2, 3})->bytes(), 0U); }

TEST(Gather, IsLeftToTheFrameworkWhereOneCopyCannot) {
  EXPECT_FALSE(plan({3, 4}, {4, 12}));                   // transposed
  EXPECT_FALSE(plan({4}, {-4}));                         // backwards
  EXPECT_FALSE(plan({4, 3}, {0, 4}));                    // broadcast
  EXPECT_FALSE(plan({2, 2, 2, 2}, {1000, 400, 64, 8}));  // four dimensions
  EXPECT_FALSE(plan({2, 3, 2}, {100, 64, 4}));           // slices that are no whole rows apart
}

class DeviceCopyTest : public GpuTest {
 protected:
  std::shared_ptr<Chunk> memory_;
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    memory_ = *Chunk::create(context(), 2 << 20, ShareMode::Vmm);
  }
  void TearDown() override {
    memory_.reset();
    GpuTest::TearDown();
  }
};

TEST_F(DeviceCopyTest, IsCountedByItsKindWhenItIsPutOnTheStream) {
  auto stream = make_stream();
  auto guard = enter();
  const auto before = copy_counts();
  ASSERT_TRUE(copy_async(memory_->base() + 4096, memory_->base(), 100, stream.get(),
                         CopyKind::DeviceToDevice));
  ASSERT_TRUE(copy_async(0, 0, 0, stream.get(), CopyKind::DeviceToDevice));
  const auto after = copy_counts();
  EXPECT_EQ(after.calls_of(CopyKind::DeviceToDevice),
            before.calls_of(CopyKind::DeviceToDevice) + 1);
  EXPECT_EQ(after.bytes_of(CopyKind::DeviceToDevice),
            before.bytes_of(CopyKind::DeviceToDevice) + 100);
  finish(stream);
}

TEST_F(DeviceCopyTest, ThatTheDriverRefusesIsNotCounted) {
  if (!emulator_has("faults")) return;
  auto stream = make_stream();
  auto guard = enter();
  const auto before = copy_counts();
  emulator_fails("cuMemcpyAsync:1:1");
  EXPECT_FALSE(copy_async(memory_->base() + 4096, memory_->base(), 100, stream.get(),
                          CopyKind::DeviceToDevice));
  EXPECT_EQ(copy_counts().calls_of(CopyKind::DeviceToDevice),
            before.calls_of(CopyKind::DeviceToDevice));
}

TEST_F(DeviceCopyTest, GathersASliceOfThreeDimensionsInOneCopy) {
  // x[:, 1:4, 2:7] of a (4, 6, 10) array of 4-byte elements.
  std::vector<std::int32_t> whole(4 * 6 * 10);
  std::iota(whole.begin(), whole.end(), 0);
  write(memory_->base(), std::as_bytes(std::span(whole)));
  const Numbers shape = {4, 3, 5};
  const auto gather = plan(shape, {240, 40, 4});
  ASSERT_TRUE(gather);
  auto stream = make_stream();
  const DevicePtr to = memory_->base() + (1 << 20);
  const auto before = copy_counts();
  {
    auto guard = enter();
    ASSERT_TRUE(gather_async(to, memory_->base() + 40 + 8, *gather, stream.get(),
                             CopyKind::DeviceToDevice));
    finish(stream);
  }
  EXPECT_EQ(copy_counts().calls_of(CopyKind::DeviceToDevice),
            before.calls_of(CopyKind::DeviceToDevice) + 1);
  const auto packed = read(to, gather->bytes());
  std::vector<std::int32_t> got(4 * 3 * 5);
  std::memcpy(got.data(), packed.data(), packed.size());
  std::size_t at = 0;
  for (int i = 0; i < 4; ++i)
    for (int j = 1; j < 4; ++j)
      for (int k = 2; k < 7; ++k) EXPECT_EQ(got[at++], (i * 6 + j) * 10 + k);
}

}  // namespace
}  // namespace tensorferry::cuda
