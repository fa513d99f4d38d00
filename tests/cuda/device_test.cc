#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/gpu_error.h>

#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

TEST(Uuid, IsWrittenAndReadAsTheDriverDoes) {
  Uuid uuid;
  for (std::size_t i = 0; i < 16; ++i) uuid.bytes[i] = static_cast<std::uint8_t>(0x11 * i);
  EXPECT_EQ(to_string(uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
  EXPECT_EQ(uuid_from_string("GPU-00112233-4455-6677-8899-aabbccddeeff").value(), uuid);
  EXPECT_EQ(uuid_from_string("MIG-00112233-4455-6677-8899-AABBCCDDEEFF").value(), uuid);
}

TEST(Uuid, OfAnotherFormIsRefused) {
  for (const char* wrong :
       {"", "GPU-", "0", "GPU-00112233-4455-6677-8899-aabbccddeeffx",
        "GPU-00112233445566778899aabbccddeeff", "GPU-0011223g-4455-6677-8899-aabbccddeeff"})
    EXPECT_EQ(uuid_from_string(wrong).error().code, ErrorCode::InvalidArgument) << wrong;
}

class DeviceTest : public GpuTest {};

TEST_F(DeviceTest, IsFoundByOrdinalAndByUuid) {
  if (!has_devices(2)) return;
  auto all = devices();
  ASSERT_TRUE(all) << all.error().message;
  ASSERT_GE(all->size(), 2U);
  EXPECT_NE((*all)[0].uuid, (*all)[1].uuid);
  EXPECT_EQ(device_by_uuid((*all)[1].uuid)->ordinal, 1);
  EXPECT_EQ(device_by_ordinal(1)->uuid, (*all)[1].uuid);
  EXPECT_TRUE((*all)[0].attributes.virtual_memory);
  EXPECT_TRUE((*all)[0].attributes.ipc_events);
}

TEST_F(DeviceTest, ThatIsNotVisibleIsAnErrorThatSaysWhatIs) {
  const Error error = device_by_uuid(Uuid{}).error();
  EXPECT_EQ(gpu_word(error), "gpu_no_device");
  EXPECT_NE(error.message.find(to_string(context()->device().uuid)), std::string::npos);
  EXPECT_EQ(device_by_ordinal(-1).error().code, ErrorCode::NotFound);
  EXPECT_EQ(device_by_ordinal(1000).error().code, ErrorCode::NotFound);
}

TEST_F(DeviceTest, KeepsItsUuidWhereItsOrdinalIsAnother) {
  if (!std::getenv("EXPECTED_UUID") && !has_devices(2)) return;
  const auto other = device_by_ordinal(1);  // none in the inner process
  const std::string second = other ? to_string(other->uuid) : "";
  if (!in_own_process({{"CUDA_VISIBLE_DEVICES", "1"}, {"EXPECTED_UUID", second.c_str()}})) return;
  ASSERT_EQ(devices()->size(), 1U);
  EXPECT_EQ(to_string(device_by_ordinal(0)->uuid), std::getenv("EXPECTED_UUID"));
}

TEST_F(DeviceTest, ReachesAnotherOnlyWhereTheDriverSaysSo) {
  if (!in_own_process({{"FAKECUDA_P2P", "0-1:0,1-0:1"}})) return;
  auto all = *devices();
  EXPECT_TRUE(can_access_peer(all[0], all[0]).value());
  EXPECT_FALSE(can_access_peer(all[0], all[1]).value());
  EXPECT_TRUE(can_access_peer(all[1], all[0]).value());
}

}  // namespace
}  // namespace tensorferry::cuda
