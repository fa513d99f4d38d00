#include <tensorferry/cuda/context.h>
#include <tensorferry/transport/counters.h>

#include <thread>

#include "driver_call.h"
#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

ContextHandle current() {
  ContextHandle handle = nullptr;
  EXPECT_EQ(raw_call<"cuCtxGetCurrent">(&handle), abi::kSuccess);
  return handle;
}

class ContextTest : public GpuTest {};

TEST_F(ContextTest, IsRetainedOnceForAllHolders) {
  auto again = PrimaryContext::retain(context()->device());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->get(), context().get());
}

TEST_F(ContextTest, IsMadeByRetainingOnlyAndGoesWithItsLastHolder) {
  if (!has_devices(2)) return;
  const Device second = *device_by_ordinal(1);
  EXPECT_FALSE(primary_context_active(second).value());
  const Counter counted = Counters::of_process().add("cuda_contexts");
  const std::uint64_t before = counted.value();
  auto held = PrimaryContext::retain(second);
  ASSERT_TRUE(held);
  EXPECT_TRUE(primary_context_active(second).value());
  (void)PrimaryContext::retain(second);
  EXPECT_EQ(counted.value(), before + 1);
  held->reset();
  EXPECT_FALSE(primary_context_active(second).value());
}

TEST_F(ContextTest, IsCurrentOnlyWhileAGuardLives) {
  if (!has_devices(2)) return;
  EXPECT_EQ(current(), nullptr);
  {
    auto guard = enter();
    EXPECT_EQ(current(), context()->get());
    const auto second = PrimaryContext::retain(*device_by_ordinal(1));
    {
      auto inner = ContextGuard::enter(**second);
      EXPECT_EQ(current(), (*second)->get());
    }
    EXPECT_EQ(current(), context()->get());
  }
  EXPECT_EQ(current(), nullptr);
}

TEST_F(ContextTest, MovingAGuardPopsOnce) {
  {
    auto guard = ContextGuard::enter(*context());
    ASSERT_TRUE(guard);
    const ContextGuard moved = std::move(*guard);
    EXPECT_EQ(current(), context()->get());
  }
  EXPECT_EQ(current(), nullptr);
}

TEST_F(ContextTest, OtherThreadsDontSeeTheGuard) {
  auto guard = enter();
  ContextHandle there = context()->get();
  std::thread([&] { there = current(); }).join();
  EXPECT_EQ(there, nullptr);
}

TEST_F(ContextTest, RelaxedCaptureGivesTheModeBack) {
  int mode = 0;  // global
  {
    const RelaxedCapture relaxed;
    ASSERT_EQ(raw_call<"cuThreadExchangeStreamCaptureMode">(&mode), abi::kSuccess);
    EXPECT_EQ(mode, abi::kCaptureModeRelaxed);
    ASSERT_EQ(raw_call<"cuThreadExchangeStreamCaptureMode">(&mode), abi::kSuccess);
  }
  mode = 1;
  ASSERT_EQ(raw_call<"cuThreadExchangeStreamCaptureMode">(&mode), abi::kSuccess);
  EXPECT_EQ(mode, 0);
}

}  // namespace
}  // namespace tensorferry::cuda
