#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/probe.h>

#include <set>

#include "fake_driver.h"
#include "peer.h"

namespace tensorferry::cuda {
namespace {

class EventRingTest : public GpuTest {
 protected:
  std::unique_ptr<EventRing> make(std::size_t slots = 4) {
    auto ring = EventRing::create(context(), slots);
    EXPECT_TRUE(ring) << ring.error().message;
    return std::move(*ring);
  }
};

TEST_F(EventRingTest, MakesAllEventsAtOnceAndNoneLater) {
  const auto before = emulator_counters().events_created;
  auto ring = make();
  EXPECT_EQ(emulator_counters().events_created, before + 4);
  auto slot = ring->take();
  EXPECT_TRUE(ring->give_back(*slot));
  EXPECT_EQ(emulator_counters().events_created, before + 4);
}

TEST_F(EventRingTest, GivesEachSlotToOneUseAtATime) {
  auto ring = make();
  std::set<std::uint32_t> indexes;
  for (int i = 0; i < 4; ++i) indexes.insert(ring->take()->index);
  EXPECT_EQ(indexes.size(), 4U);
  EXPECT_FALSE(ring->take());
  EXPECT_EQ(ring->available(), 0U);
}

TEST_F(EventRingTest, NoticesASlotOfAnEarlierUse) {
  auto ring = make(1);
  const auto first = *ring->take();
  EXPECT_TRUE(ring->event(first));
  EXPECT_TRUE(ring->give_back(first));
  EXPECT_FALSE(ring->give_back(first));
  const auto second = *ring->take();
  EXPECT_EQ(second.index, first.index);
  EXPECT_NE(second.generation, first.generation);
  EXPECT_FALSE(ring->event(first));
  EXPECT_FALSE(ring->retire(first));
  EXPECT_FALSE(ring->event({17, 1}));
}

TEST_F(EventRingTest, NeverUsesWhatADeadPeerMayHaveRecorded) {
  auto ring = make();
  const auto lost = *ring->take();
  const auto kept = *ring->take();
  EXPECT_TRUE(ring->give_back(kept));
  EXPECT_TRUE(ring->retire(lost));
  EXPECT_FALSE(ring->event(lost));
  EXPECT_FALSE(ring->give_back(lost));
  for (int i = 0; i < 3; ++i) EXPECT_NE(ring->take()->index, lost.index);
  EXPECT_FALSE(ring->take());
}

TEST_F(EventRingTest, LosesNoEventWhereverMakingThemFails) {
  for (int nth = 1; nth <= 4; ++nth) {
    emulator_fails("cuEventCreate:" + std::to_string(nth) + ":2");
    auto ring = EventRing::create(context(), 4);
    ASSERT_FALSE(ring);
    EXPECT_EQ(gpu_word(ring.error()), "gpu_oom(device)");
  }
  emulator_fails("");
}

TEST_F(EventRingTest, ThatThisProcessMadeIsNotOpenedHere) {
  auto ring = make();
  auto opened = PeerEvents::open(context(), *ring->export_handles());
  ASSERT_FALSE(opened);
  EXPECT_EQ(gpu_word(opened.error()), "gpu_pidns_mismatch");
}

// The ordering of a request, both ways, between two processes.
TEST_F(EventRingTest, OrdersTheWorkOfTwoProcessesWithoutAHostWait) {
  auto ring = make();
  auto chunk = *Chunk::create(context(), 2 << 20, ShareMode::Vmm);
  Peer peer;
  ASSERT_STREQ(peer.open(*chunk).text, "");
  ASSERT_EQ(peer.open(*ring).numbers[0], 4U);
  auto stream = make_stream();
  for (std::uint64_t round = 1; round <= 6; ++round) {
    const std::uint64_t pair = round % 2;  // events 2 * pair and the next: ready, done
    const auto ready = ring->at(static_cast<std::uint32_t>(2 * pair));
    const auto done = ring->at(static_cast<std::uint32_t>(2 * pair + 1));
    const auto bytes = pattern(65536, round);
    {
      auto guard = enter();
      ASSERT_TRUE(copy_async(chunk->base(), device_ptr(bytes.data()), bytes.size(), stream.get(),
                             CopyKind::HostToDevice));
      ASSERT_TRUE(record(ready, stream.get()));
    }
    const auto seen = peer.ask({.verb = PeerVerb::Checksum, .numbers = {0, bytes.size(), pair}});
    ASSERT_STREQ(seen.text, "");
    EXPECT_EQ(seen.numbers[0], checksum(bytes));
    const auto filled =
        peer.ask({.verb = PeerVerb::Fill, .numbers = {0, 65536, round + 100, pair}});
    ASSERT_STREQ(filled.text, "");
    ASSERT_TRUE(wait_on_host(done, WaitReason::Probe));
    EXPECT_EQ(read(chunk->base(), 65536), pattern(65536, round + 100));
  }
  ASSERT_STREQ(peer.ask({.verb = PeerVerb::Close}).text, "");
}

TEST_F(EventRingTest, NobodyHangsAtAKilledPeersEvent) {
  auto ring = make();
  auto chunk = *Chunk::create(context(), 2 << 20, ShareMode::Vmm);
  const auto slot = *ring->take();
  const auto event = *ring->event(slot);
  {
    Peer peer;
    ASSERT_STREQ(peer.open(*chunk).text, "");
    ASSERT_EQ(peer.open(*ring).numbers[0], 4U);
    peer.kill();
  }
  int looks = 0;
  auto waited = wait_on_host(event, WaitReason::Probe, {}, [&] { return ++looks > 2; });
  if (!waited) {
    EXPECT_EQ(gpu_word(waited.error()), "gpu_peer_died");
  }
  EXPECT_TRUE(ring->retire(slot));
  EXPECT_EQ(ring->available(), 3U);
}

}  // namespace
}  // namespace tensorferry::cuda
