#include <tensorferry/cuda/pinned_segment.h>
#include <tensorferry/cuda/pointer_info.h>

#include "driver_call.h"
#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

class PinnedSegmentTest : public GpuTest {};

TEST_F(PinnedSegmentTest, IsKnownToTheDriverAsLongAsItIsMapped) {
  if (!emulator_has("counters")) return;
  const auto before = emulator_counters();
  auto segment = Segment::create(1, 1 << 20).value();
  ASSERT_TRUE(pin_segment(*segment, context()));
  ASSERT_TRUE(pin_segment(*segment, context())) << "the second time nothing happens";
  EXPECT_TRUE(segment->is_pinned());
  EXPECT_EQ(emulator_counters().host_registers, before.host_registers + 1);
  EXPECT_EQ(emulator_counters().host_unregisters, before.host_unregisters);
  segment.reset();
  EXPECT_EQ(emulator_counters().host_unregisters, before.host_unregisters + 1);
}

TEST(DeviceInUse, IsFoundWithoutADriverOfOurOwnAndOnlyOnceThereIsAContext) {
  if (!in_own_process()) return;
  EXPECT_EQ(device_in_use(), std::nullopt);
  EXPECT_EQ(loaded_api(), nullptr) << "nobody has asked for the driver yet";
  const auto device = device_by_ordinal(0);
  ASSERT_TRUE(device) << device.error().message;
  EXPECT_EQ(device_in_use(), std::nullopt) << "a driver, and no context";
  const auto context = PrimaryContext::retain(*device);
  ASSERT_TRUE(context) << context.error().message;
  EXPECT_EQ(device_in_use(), 0);
}

}  // namespace
}  // namespace tensorferry::cuda
