#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/probe.h>
#include <tensorferry/cuda/rung.h>

#include "fake_driver.h"
#include "peer.h"

namespace tensorferry::cuda {
namespace {

TEST(ProbePattern, OfEachSeedIsAnotherAndAllOfItCounts) {
  auto bytes = pattern(kProbeBytes, 1);
  EXPECT_NE(checksum(bytes), checksum(pattern(kProbeBytes, 2)));
  bytes.back() ^= std::byte{1};
  EXPECT_NE(checksum(bytes), checksum(pattern(kProbeBytes, 1)));
  EXPECT_NE(pattern(13, 1).back(), std::byte{0});
}

class ProbeTest : public GpuTest {
 protected:
  static Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

  // One attempt with a peer, as server and stub make it. What was shared goes after the peer has
  // closed it.
  Result<void> attempt(const Attempt& what, Peer& peer) {
    auto chunk = Chunk::create(context(), 2 << 20, what.mode);
    if (!chunk) return std::unexpected(chunk.error());
    Result<std::unique_ptr<EventRing>> ring = nullptr;
    if (what.events) ring = EventRing::create(context(), 2);
    if (!ring) return std::unexpected(ring.error());
    auto result = probe(**chunk, ring->get(), peer);
    (void)peer.ask({.verb = PeerVerb::Close});
    return result;
  }

  Result<void> probe(const Chunk& chunk, EventRing* ring, Peer& peer) {
    if (auto opened = said(peer.open(chunk)); !opened) return opened;
    ProbePlace place{.at = chunk.base() + kProbeBytes, .events = std::nullopt};
    std::uint64_t slot = kNoSlot;
    if (ring) {
      if (auto opened = said(peer.open(*ring)); !opened) return opened;
      slot = 0;
      place.events = ProbeEvents{.ready = ring->at(0), .done = ring->at(1)};
    }
    const auto stream = make_stream();
    if (auto begun = begin_probe(stream, place, 1234, soon()); !begun) return begun;
    const PeerFrame answer =
        peer.ask({.verb = PeerVerb::AnswerProbe, .numbers = {kProbeBytes, slot, 5678}});
    if (auto answered = said(answer); !answered) return answered;
    return check_probe(stream, place, 1234, {.seen = answer.numbers[0], .seed = 5678}, soon());
  }

  // Up the ladder with a peer for each attempt. `environment` is the peer's.
  RungChoice climb(GpuTransport asked = GpuTransport::Auto,
                   const Peer::Environment& environment = {}) {
    RungLadder ladder(plan_rungs(context()->device(), asked));
    while (const Attempt* what = ladder.next()) {
      Peer peer(environment);
      auto result = attempt(*what, peer);
      if (result)
        ladder.worked();
      else
        ladder.failed(result.error());
    }
    return ladder.choice();
  }

 private:
  static Result<void> said(const PeerFrame& answer) {
    if (answer.text[0] == 0) return {};
    return failure(ErrorCode::Unavailable, answer.text);
  }
};

TEST_F(ProbeTest, FindsTheBestRungWhereAllWorks) {
  const auto choice = climb();
  EXPECT_EQ(choice.rung, Rung::Vmm) << choice.reason;
}

TEST_F(ProbeTest, TakesTheRungThatIsAskedFor) {
  EXPECT_EQ(climb(GpuTransport::Ipc).rung, Rung::LegacyIpc);
  EXPECT_EQ(climb(GpuTransport::Staging).rung, Rung::PinnedStaging);
  EXPECT_EQ(climb(GpuTransport::Off).rung, Rung::NoGpu);
}

// What the profiles of the emulator stand for, from the server's driver on.
struct Expected {
  const char* profile;
  Rung rung;
};
class ProbeUnder : public ProbeTest, public testing::WithParamInterface<Expected> {};
INSTANTIATE_TEST_SUITE_P(Profiles, ProbeUnder,
                         testing::Values(Expected{"full", Rung::Vmm},
                                         Expected{"no_vmm", Rung::LegacyIpc},
                                         Expected{"no_ipc_events", Rung::NoEvents},
                                         Expected{"events_only", Rung::PinnedStaging},
                                         Expected{"attributes_lie", Rung::PinnedStaging},
                                         Expected{"no_ipc", Rung::PinnedStaging},
                                         Expected{"no_register", Rung::Pageable}),
                         [](const auto& each) { return std::string(each.param.profile); });

TEST_P(ProbeUnder, AProfileFindsItsRungAndSaysWhy) {
  if (!in_own_process({{"FAKECUDA_PROFILE", GetParam().profile}})) return;
  const auto choice = climb();
  EXPECT_EQ(choice.rung, GetParam().rung) << choice.reason;
  EXPECT_FALSE(choice.reason.empty());
}

TEST_F(ProbeTest, GoesOnWhereOnlyThePeerCannotOpenTheMemory) {
  if (!emulator_has("faults")) return;
  const auto choice =
      climb(GpuTransport::Auto, {{"FAKECUDA_FAIL", "cuMemImportFromShareableHandle:1+:801"}});
  EXPECT_EQ(choice.rung, Rung::LegacyIpc);
  EXPECT_NE(choice.reason.find("vmm failed: gpu_unsupported: cuMemImportFromShareableHandle"),
            std::string::npos)
      << choice.reason;
}

TEST_F(ProbeTest, GoesOnWithoutEventsWhereThePeerCannotOpenThose) {
  if (!emulator_has("faults")) return;
  const auto choice = climb(GpuTransport::Auto, {{"FAKECUDA_FAIL", "cuIpcOpenEventHandle:1+:201"}});
  EXPECT_EQ(choice.rung, Rung::NoEvents);
  EXPECT_NE(choice.reason.find("gpu_pidns_mismatch"), std::string::npos) << choice.reason;
}

TEST_F(ProbeTest, NoticesBytesThatDontArrive) {
  if (!emulator_has("faults")) return;
  const auto choice = climb(GpuTransport::Vmm, {{"FAKECUDA_FAIL", "cuMemcpyAsync:1:corrupt"}});
  EXPECT_EQ(choice.rung, Rung::PinnedStaging);
  EXPECT_NE(choice.reason.find("the stub saw other bytes"), std::string::npos) << choice.reason;
}

TEST_F(ProbeTest, NoticesThatTheStubsBytesDontArrive) {
  if (!emulator_has("faults")) return;
  const auto choice = climb(GpuTransport::Vmm, {{"FAKECUDA_FAIL", "cuMemcpyAsync:2:corrupt"}});
  EXPECT_NE(choice.reason.find("the server saw other bytes"), std::string::npos) << choice.reason;
}

}  // namespace
}  // namespace tensorferry::cuda
