#include <gtest/gtest.h>
#include <tensorferry/cuda/gpu_error.h>

#include "driver_call.h"

namespace tensorferry::cuda {
namespace {

TEST(GpuError, BeginsWithItsWord) {
  const Error error = gpu_failure(GpuErrorKind::OutOfPool, "no room").error();
  EXPECT_EQ(error.message, "gpu_oom(pool): no room");
  EXPECT_EQ(gpu_word(error), "gpu_oom(pool)");
  EXPECT_TRUE(is_gpu_error(error, GpuErrorKind::OutOfPool));
  EXPECT_FALSE(is_gpu_error(error, GpuErrorKind::OutOfDeviceMemory));
}

TEST(GpuError, AnyOtherErrorHasNoWord) {
  EXPECT_EQ(gpu_word(Error{ErrorCode::Internal, "an accident: none of ours", {}}), "");
}

TEST(GpuError, OfTheDriverNamesCallAndCode) {
  const Error error = driver_failure("cuMemMap", 1, nullptr).error();
  EXPECT_EQ(error.message, "gpu_driver: cuMemMap: CUDA error (1)");
}

TEST(GpuError, ThatBreaksTheContextSaysItsNumberInItsWord) {
  const Error error = driver_failure("cuMemcpyAsync", 700, nullptr).error();
  EXPECT_EQ(gpu_word(error), "gpu_sticky(700)");
  EXPECT_TRUE(is_gpu_error(error, GpuErrorKind::Sticky));
  EXPECT_NE(error.message.find("restarted"), std::string::npos);
}

TEST(GpuError, RunningOutOfMemoryMayPass) {
  EXPECT_EQ(driver_failure("cuMemCreate", 2, nullptr).error().code, ErrorCode::Unavailable);
}

}  // namespace
}  // namespace tensorferry::cuda
