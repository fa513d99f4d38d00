#include <tensorferry/cuda/rung.h>

#include <gtest/gtest.h>

#include <vector>

namespace tensorferry::cuda {
namespace {

Device capable() {
  Device device;
  device.attributes = {.virtual_memory = true,
                       .posix_fd_handles = true,
                       .ipc_events = true,
                       .host_register = true,
                       .unified_addressing = true};
  return device;
}

std::vector<Rung> rungs(const Plan& plan) {
  std::vector<Rung> all;
  for (const Attempt& attempt : plan.attempts) all.push_back(attempt.rung);
  return all;
}

TEST(Rungs, AreTriedFromBestToWorst) {
  const Plan plan = plan_rungs(capable(), GpuTransport::Auto);
  EXPECT_EQ(rungs(plan), (std::vector{Rung::Vmm, Rung::LegacyIpc, Rung::NoEvents, Rung::NoEvents}));
  EXPECT_EQ(plan.last, Rung::PinnedStaging);
  EXPECT_EQ(plan.reason, "");
}

TEST(Rungs, ThatTheDeviceSaysItCannotDoAreNotTried) {
  Device device = capable();
  device.attributes.posix_fd_handles = false;
  EXPECT_EQ(rungs(plan_rungs(device, GpuTransport::Auto)),
            (std::vector{Rung::LegacyIpc, Rung::NoEvents}));
  device.attributes.ipc_events = false;
  const Plan plan = plan_rungs(device, GpuTransport::Auto);
  EXPECT_EQ(rungs(plan), (std::vector{Rung::NoEvents}));
  EXPECT_NE(plan.reason.find("no interprocess events"), std::string::npos);
  device.attributes.host_register = false;
  EXPECT_EQ(plan_rungs(device, GpuTransport::Auto).last, Rung::Pageable);
}

TEST(Rungs, AreForcedByTheUser) {
  EXPECT_EQ(rungs(plan_rungs(capable(), GpuTransport::Vmm)),
            (std::vector{Rung::Vmm, Rung::NoEvents}));
  EXPECT_EQ(rungs(plan_rungs(capable(), GpuTransport::Ipc)),
            (std::vector{Rung::LegacyIpc, Rung::NoEvents}));
  const Plan staging = plan_rungs(capable(), GpuTransport::Staging);
  EXPECT_TRUE(staging.attempts.empty());
  EXPECT_EQ(staging.last, Rung::PinnedStaging);
  EXPECT_EQ(staging.reason, "TENSORFERRY_GPU_TRANSPORT=staging");
  EXPECT_EQ(plan_rungs(capable(), GpuTransport::Off).last, Rung::NoGpu);
}

TEST(Rungs, ARequestOfAnUnknownNameIsRefusedWithAllThatThereAre) {
  EXPECT_EQ(gpu_transport_from_string("").value(), GpuTransport::Auto);
  EXPECT_EQ(gpu_transport_from_string("ipc").value(), GpuTransport::Ipc);
  const auto wrong = gpu_transport_from_string("fast");
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("auto, vmm, ipc, staging or off"), std::string::npos);
}

TEST(RungLadder, StopsAtTheFirstThatWorks) {
  RungLadder ladder(plan_rungs(capable(), GpuTransport::Auto));
  ASSERT_TRUE(ladder.next());
  ladder.worked();
  EXPECT_FALSE(ladder.next());
  EXPECT_EQ(ladder.choice().rung, Rung::Vmm);
  EXPECT_EQ(ladder.choice().reason, "the probe succeeded");
}

TEST(RungLadder, TellsWhyTheBetterOnesAreNotUsed) {
  RungLadder ladder(plan_rungs(capable(), GpuTransport::Auto));
  ladder.failed({ErrorCode::Internal, "gpu_driver: cuMemCreate: no", {}});
  EXPECT_EQ(ladder.next()->rung, Rung::LegacyIpc);
  ladder.failed({ErrorCode::Internal, "gpu_pidns_mismatch: no", {}});
  while (ladder.next()) ladder.failed({ErrorCode::Internal, "no", {}});
  EXPECT_EQ(ladder.choice().rung, Rung::PinnedStaging);
  EXPECT_EQ(ladder.choice().reason,
            "vmm failed: gpu_driver: cuMemCreate: no; legacy_ipc failed: gpu_pidns_mismatch: no; "
            "no_events (vmm) failed: no; no_events (legacy_ipc) failed: no");
}

}  // namespace
}  // namespace tensorferry::cuda
