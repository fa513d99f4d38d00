#include <fcntl.h>
#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/probe.h>

#include "fake_driver.h"
#include "peer.h"

namespace tensorferry::cuda {
namespace {

constexpr std::size_t kChunk = 4 << 20;

std::string mode_name(const testing::TestParamInfo<ShareMode>& info) {
  return info.param == ShareMode::Vmm ? "Vmm" : "LegacyIpc";
}

class ChunkTest : public GpuTest, public testing::WithParamInterface<ShareMode> {
 protected:
  std::shared_ptr<Chunk> make(std::size_t bytes = kChunk) {
    auto chunk = Chunk::create(context(), bytes, GetParam());
    EXPECT_TRUE(chunk) << chunk.error().message;
    return *chunk;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, ChunkTest, testing::Values(ShareMode::Vmm, ShareMode::LegacyIpc),
                         mode_name);

TEST_P(ChunkTest, IsRoundedUpToWhatTheDeviceMaps) {
  EXPECT_EQ(make(1)->bytes(), std::size_t{2} << 20);
  EXPECT_EQ(make(kChunk)->bytes(), kChunk);
}

TEST_P(ChunkTest, GivesAllBack) {
  const auto before = emulator_counters();
  make().reset();
  const auto after = emulator_counters();
  EXPECT_EQ(after.device_bytes, before.device_bytes);
  EXPECT_EQ(after.maps - before.maps, after.unmaps - before.unmaps);
}

TEST_P(ChunkTest, OfAnotherProcessIsTheSameMemory) {
  auto chunk = make();
  Peer peer;
  ASSERT_STREQ(peer.open(*chunk).text, "");
  const auto bytes = pattern(8192, 7);
  write(chunk->base() + 4096, bytes);
  const auto seen = peer.ask({.verb = PeerVerb::Checksum, .numbers = {4096, 8192, kNoSlot}});
  EXPECT_STREQ(seen.text, "");
  EXPECT_EQ(seen.numbers[0], checksum(bytes));
  ASSERT_STREQ(peer.ask({.verb = PeerVerb::Fill, .numbers = {0, 4096, 99, kNoSlot}}).text, "");
  EXPECT_EQ(read(chunk->base(), 4096), pattern(4096, 99));
  ASSERT_STREQ(peer.ask({.verb = PeerVerb::Close}).text, "");
}

TEST_P(ChunkTest, OpenedTwiceIsClosedTwice) {
  auto chunk = make();
  Peer peer;
  ASSERT_STREQ(peer.open(*chunk).text, "");
  ASSERT_STREQ(peer.open(*chunk, PeerVerb::OpenAgain).text, "");
  ASSERT_STREQ(peer.ask({.verb = PeerVerb::Close}).text, "");
  ASSERT_STREQ(peer.ask({.verb = PeerVerb::Reports}).text, "");
}

TEST_P(ChunkTest, OfAKilledPeerIsStillOurs) {
  auto chunk = make();
  {
    Peer peer;
    ASSERT_STREQ(peer.open(*chunk).text, "");
    ASSERT_STREQ(peer.ask({.verb = PeerVerb::Fill, .numbers = {0, 4096, 5, kNoSlot}}).text, "");
    peer.kill();
  }
  EXPECT_EQ(read(chunk->base(), 4096), pattern(4096, 5));
}

TEST_P(ChunkTest, LargerThanTheDeviceIsAnErrorWithSizes) {
  auto chunk = Chunk::create(context(), std::size_t{1} << 40, GetParam());
  ASSERT_FALSE(chunk);
  EXPECT_EQ(gpu_word(chunk.error()), "gpu_oom(device)");
  EXPECT_EQ(chunk.error().code, ErrorCode::Unavailable);
  EXPECT_NE(chunk.error().message.find("1099511627776 bytes"), std::string::npos);
  EXPECT_NE(chunk.error().message.find(to_string(context()->device().uuid)), std::string::npos);
}

TEST_P(ChunkTest, OfASizeThatRoundingWouldWrapIsRefused) {
  auto chunk = Chunk::create(context(), ~std::size_t{0}, GetParam());
  ASSERT_FALSE(chunk);
  EXPECT_EQ(gpu_word(chunk.error()), "gpu_oom(device)");
}

TEST_P(ChunkTest, KnowsItsBounds) {
  auto chunk = make();
  EXPECT_TRUE(chunk->contains(0, kChunk));
  EXPECT_TRUE(chunk->contains(kChunk, 0));
  EXPECT_FALSE(chunk->contains(1, kChunk));
  EXPECT_FALSE(chunk->contains(~std::uint64_t{0}, 2));
}

class VmmChunkTest : public GpuTest {};

TEST_F(VmmChunkTest, ItsDescriptorIsNotInherited) {
  auto chunk = *Chunk::create(context(), kChunk, ShareMode::Vmm);
  auto handle = chunk->export_handle();
  ASSERT_TRUE(handle);
  EXPECT_EQ(::fcntl(std::get<UniqueFd>(*handle).get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(VmmChunkTest, OutlivesItsOwnerInWhoOpenedIt) {
  Peer peer;
  {
    auto chunk = *Chunk::create(context(), kChunk, ShareMode::Vmm);
    ASSERT_STREQ(peer.open(*chunk).text, "");
    write(chunk->base(), pattern(4096, 3));
  }
  const auto seen = peer.ask({.verb = PeerVerb::Checksum, .numbers = {0, 4096, kNoSlot}});
  EXPECT_EQ(seen.numbers[0], checksum(pattern(4096, 3)));
}

TEST_F(VmmChunkTest, ADescriptorOfSomethingElseIsRefused) {
  UniqueFd other(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(Chunk::open(context(), ChunkHandle(std::move(other)), kChunk));
}

TEST_F(VmmChunkTest, OfAnotherSizeThanAnnouncedIsRefused) {
  auto chunk = *Chunk::create(context(), kChunk, ShareMode::Vmm);
  const auto before = emulator_counters();
  EXPECT_FALSE(Chunk::open(context(), *chunk->export_handle(), 2 * kChunk));
  const auto after = emulator_counters();
  EXPECT_EQ(after.maps - before.maps, after.unmaps - before.unmaps);
}

class LegacyChunkTest : public GpuTest {};

TEST_F(LegacyChunkTest, InTheProcessThatMadeItSaysWhatIsNeeded) {
  auto chunk = *Chunk::create(context(), kChunk, ShareMode::LegacyIpc);
  auto opened = Chunk::open(context(), *chunk->export_handle(), kChunk);
  ASSERT_FALSE(opened);
  EXPECT_EQ(gpu_word(opened.error()), "gpu_pidns_mismatch");
  EXPECT_NE(opened.error().message.find("--pid"), std::string::npos);
}

TEST_F(LegacyChunkTest, SmallerThanAnnouncedIsRefused) {
  auto chunk = *Chunk::create(context(), kChunk, ShareMode::LegacyIpc);
  Peer peer;
  PeerFrame order{.verb = PeerVerb::OpenChunk};
  order.numbers[0] = static_cast<std::uint64_t>(ShareMode::LegacyIpc);
  order.numbers[1] = 2 * kChunk;
  order.handles[0] = std::get<IpcHandle>(*chunk->export_handle());
  EXPECT_NE(std::string(peer.ask(order).text).find("announced"), std::string::npos);
}

}  // namespace
}  // namespace tensorferry::cuda
