#include <gtest/gtest.h>
#include <tensorferry/cuda/driver.h>

namespace tensorferry::cuda {
namespace {

TEST(Driver, AnAbsentLibraryIsANormalAnswer) {
  auto driver = Driver::load("libtensorferry-no-such-driver.so.1");
  ASSERT_FALSE(driver);
  EXPECT_EQ(driver.error().code, ErrorCode::NotFound);
  EXPECT_NE(driver.error().message.find("libtensorferry-no-such-driver.so.1"), std::string::npos);
}

TEST(Driver, ALibraryThatIsNoDriverIsRefused) {
  auto driver = Driver::load("libc.so.6");
  ASSERT_FALSE(driver);
  EXPECT_EQ(driver.error().code, ErrorCode::Unsupported);
}

TEST(Driver, SaysVersionAndDevicesWhereThereIsOne) {
  auto driver = Driver::load();
  if (!driver) GTEST_SKIP() << driver.error().message;
  EXPECT_GE(driver->info().version, 11000);
  EXPECT_GE(driver->info().devices, 0);
}

}  // namespace
}  // namespace tensorferry::cuda
