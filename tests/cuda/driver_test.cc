#include <gtest/gtest.h>
#include <sys/wait.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/gpu_error.h>
#include <unistd.h>

#include "fake_driver.h"
#include "use_emulator.h"

namespace tensorferry::cuda {
namespace {

TEST(Driver, AnAbsentLibraryIsANormalAnswer) {
  auto driver = Driver::load("libtensorferry-no-such-driver.so.1");
  ASSERT_FALSE(driver);
  EXPECT_EQ(driver.error().code, ErrorCode::NotFound);
  EXPECT_EQ(gpu_word(driver.error()), "gpu_driver_missing");
  EXPECT_NE(driver.error().message.find("libtensorferry-no-such-driver.so.1"), std::string::npos);
}

TEST(Driver, ALibraryThatIsNoDriverIsRefused) {
  auto driver = Driver::load("libc.so.6");
  ASSERT_FALSE(driver);
  EXPECT_EQ(driver.error().code, ErrorCode::Unsupported);
}

TEST(Driver, SaysVersionAndDevicesWhereThereIsOne) {
  auto driver = Driver::get();
  if (!driver) GTEST_SKIP() << driver.error().message;
  EXPECT_GE((*driver)->info().version, kOldestDriver);
  EXPECT_GE((*driver)->info().devices, 0);
}

TEST(Driver, IsTheSameEachTime) {
  auto first = Driver::get();
  auto second = Driver::get();
  ASSERT_EQ(first.has_value(), second.has_value());
  if (first)
    EXPECT_EQ(*first, *second);
  else
    EXPECT_EQ(first.error().message, second.error().message);
}

TEST(Driver, CanBeSwitchedOff) {
  if (!in_own_process({{"TENSORFERRY_CUDA", "off"}})) return;
  auto driver = Driver::get();
  ASSERT_FALSE(driver);
  EXPECT_EQ(gpu_word(driver.error()), "gpu_off");
  EXPECT_EQ(driver.error().code, ErrorCode::NotFound);
  EXPECT_EQ(gpu_word(devices().error()), "gpu_off");
}

// On the emulator under its profiles; what needs none, on a real driver too.
class DriverWithDevices : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::getenv("FAKECUDA") && !on_the_machines_driver())
      GTEST_SKIP() << "the emulated driver was not built";
  }
};

TEST_F(DriverWithDevices, ADriverWithoutADeviceIsNoError) {
  if (!in_own_process({{"FAKECUDA_PROFILE", "no_driver"}})) return;
  auto driver = Driver::get();
  ASSERT_TRUE(driver) << driver.error().message;
  EXPECT_EQ((*driver)->info().devices, 0);
  EXPECT_TRUE(devices()->empty());
  EXPECT_EQ(gpu_word(device_by_ordinal(0).error()), "gpu_no_device");
}

TEST_F(DriverWithDevices, TheToolkitsStandInIsNamedForWhatItIs) {
  if (!in_own_process({{"FAKECUDA_PROFILE", "toolkit_stub"}})) return;
  auto driver = Driver::get();
  ASSERT_FALSE(driver);
  EXPECT_EQ(gpu_word(driver.error()), "gpu_stub_library") << driver.error().message;
  EXPECT_NE(driver.error().message.find("LD_LIBRARY_PATH"), std::string::npos);
}

TEST_F(DriverWithDevices, AnOldDriverIsToldWhatIsNeeded) {
  if (!in_own_process({{"FAKECUDA_PROFILE", "old_driver"}})) return;
  auto driver = Driver::get();
  ASSERT_FALSE(driver);
  EXPECT_EQ(gpu_word(driver.error()), "gpu_driver_too_old");
  EXPECT_NE(driver.error().message.find("11.2"), std::string::npos);
}

TEST_F(DriverWithDevices, IsNotInitialisedByLoadingTheLibraryOfOurs) {
  if (on_the_machines_driver()) GTEST_SKIP() << "needs the emulated driver: its counters";
  if (!in_own_process()) return;
  EXPECT_FALSE(forked_after_cuda());
  EXPECT_EQ(emulator_counters().driver_calls, 0U);
  ASSERT_TRUE(Driver::get());
  EXPECT_EQ(emulator_counters().contexts_created, 0U);
}

int status_of_child(const std::function<bool()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body() ? 0 : 1);
  int status = -1;
  ::waitpid(pid, &status, 0);
  return status;
}

TEST_F(DriverWithDevices, AForkedChildIsRefusedAndToldWhatToDo) {
  if (!in_own_process()) return;
  auto device = device_by_ordinal(0);
  ASSERT_TRUE(device);
  auto context = PrimaryContext::retain(*device);
  ASSERT_TRUE(context);
  auto stream = Stream::create(*context);
  ASSERT_TRUE(stream);
  EXPECT_EQ(status_of_child([&] {
              auto driver = Driver::get();
              return forked_after_cuda() && !driver && gpu_word(driver.error()) == "gpu_forked" &&
                     driver.error().message.find("spawn") != std::string::npos &&
                     gpu_word(PrimaryContext::retain(*device).error()) == "gpu_forked" &&
                     gpu_word(ContextGuard::enter(**context).error()) == "gpu_forked" &&
                     gpu_word(Stream::create(*context).error()) == "gpu_forked";
            }),
            0);
  EXPECT_FALSE(forked_after_cuda());
  EXPECT_TRUE(Driver::get());
}

TEST_F(DriverWithDevices, AChildOfAProcessThatHadNotUsedCudaMayUseIt) {
  if (!in_own_process()) return;
  EXPECT_EQ(status_of_child([] { return Driver::get() && !devices()->empty(); }), 0);
}

TEST_F(DriverWithDevices, AParentThatInitialisedCudaWithoutUsIsNoticed) {
  if (!in_own_process()) return;
  auto foreign = Driver::load("libcuda.so.1");  // as torch would have done
  ASSERT_TRUE(foreign);
  EXPECT_EQ(status_of_child([] {
              auto driver = Driver::get();
              return !driver && gpu_word(driver.error()) == "gpu_forked";
            }),
            0);
}

}  // namespace
}  // namespace tensorferry::cuda
