// What the server makes of a stub's reports on a GPU: a stub that lies, or that can't, goes down
// the ladder alone.
#include "device_probe.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "gpu_arenas.h"
#include "use_emulator.h"

namespace tensorferry::server {
namespace {

using cuda::Rung;
using testing::HasSubstr;

class DeviceProbeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::getenv("FAKECUDA") && !on_the_machines_driver())
      GTEST_SKIP() << "not on the emulated driver";
    gpu_ = Gpus().open(0).value();
    sharing_ = std::make_shared<GpuSharing>(*gpu_, cuda::GpuTransport::Vmm);
    to_stub_ = cuda::EventRing::create(gpu_->context(), 4).value();
    from_stub_ = cuda::EventRing::create(gpu_->context(), 4).value();
    probe_.emplace(*gpu_, *sharing_, cuda::RungLadder(sharing_->plan()), to_stub_.get(),
                   from_stub_.get());
  }
  Result<DeviceProbe::Step> report(const protocol::ProbeReport& report) {
    return probe_->next(report, {});
  }
  DeviceProbe::Step ask() { return report({}).value(); }
  static protocol::ProbeReport saw(std::uint64_t seen, std::uint64_t seed) {
    protocol::ProbeReport report;
    report.tried = true;
    report.seen = seen;
    report.seed = seed;
    return report;
  }
  static protocol::ProbeReport failed(std::string_view why) {
    protocol::ProbeReport report;
    report.tried = report.failed = true;
    report.error = why;
    return report;
  }
  // As an honest stub: in this process, which opens nothing.
  protocol::ProbeReport honest(const DeviceProbe::Step& step) {
    auto stream = cuda::Stream::create(gpu_->context()).value();
    cuda::ProbePlace place{sharing_->probe_chunk()->base() + step.trial->offset, {}};
    if (has_events(step.rung))
      place.events = cuda::ProbeEvents{to_stub_->at(step.trial->slot), from_stub_->at(0)};
    const auto answer = cuda::answer_probe(stream, place, 77).value();
    return saw(answer.seen, answer.seed);
  }

  std::shared_ptr<Gpu> gpu_;
  std::shared_ptr<GpuSharing> sharing_;
  std::unique_ptr<cuda::EventRing> to_stub_, from_stub_;
  std::optional<DeviceProbe> probe_;
};

TEST_F(DeviceProbeTest, AnHonestStubGetsTheFirstRungAndEveryEventBack) {
  const auto first = ask();
  EXPECT_EQ(first.rung, Rung::Vmm);
  ASSERT_TRUE(first.trial);
  const auto chosen = report(honest(first)).value();
  EXPECT_FALSE(chosen.trial);
  EXPECT_EQ(chosen.rung, Rung::Vmm);
  EXPECT_EQ(probe_->choice().reason, "TENSORFERRY_GPU_TRANSPORT=vmm");
  EXPECT_EQ(to_stub_->available(), 4u);
}

TEST_F(DeviceProbeTest, WhoSawOtherBytesGoesDownAlone) {
  (void)ask();
  const auto second = report(saw(1, 2)).value();
  EXPECT_EQ(second.rung, Rung::NoEvents);
  ASSERT_TRUE(second.trial);
  const auto last = report(saw(3, 4)).value();
  EXPECT_FALSE(last.trial);
  EXPECT_EQ(last.rung, Rung::PinnedStaging);
  EXPECT_THAT(probe_->choice().reason, HasSubstr("the stub saw other bytes"));
  EXPECT_EQ(sharing_->best().rung, Rung::Vmm) << "the model's others";
}

TEST_F(DeviceProbeTest, WhoSaysThatItWroteWhatItDidNotGoesDown) {
  auto lie = honest(ask());
  lie.seed += 1;
  EXPECT_EQ(report(lie)->rung, Rung::NoEvents);
}

TEST_F(DeviceProbeTest, WhatFailedThereIsSaidInShort) {
  (void)ask();
  const auto second = report(failed("no events here" + std::string(5000, 'x'))).value();
  EXPECT_EQ(second.rung, Rung::NoEvents);
  EXPECT_EQ(report(honest(second))->rung, Rung::NoEvents);
  EXPECT_THAT(probe_->choice().reason, HasSubstr("vmm failed: no events here"));
  EXPECT_LT(probe_->choice().reason.size(), 500u);
  EXPECT_EQ(to_stub_->available(), 3u) << "an event that may never be complete is used no more";
}

TEST_F(DeviceProbeTest, ReportsThatFitNothingAreLies) {
  EXPECT_EQ(report(saw(1, 2)).error().code, ErrorCode::Protocol) << "it was told to try nothing";
  (void)ask();
  EXPECT_EQ(report({}).error().code, ErrorCode::Protocol) << "it asks twice";
  while (report(failed("no"))->trial) {
  }
  EXPECT_EQ(report({}).error().code, ErrorCode::Protocol) << "all is chosen";
  EXPECT_EQ(report(failed("no")).error().code, ErrorCode::Protocol);
}

}  // namespace
}  // namespace tensorferry::server
