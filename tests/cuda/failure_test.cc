// Whichever call of the driver fails: an error comes back, and nothing is lost.
#include <sys/mman.h>
#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/pinned_region.h>
#include <tensorferry/cuda/pointer_info.h>

#include "fake_driver.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

template <class T>
Result<void> only(const Result<T>& result) {
  if (!result) return std::unexpected(result.error());
  return {};
}

// Some of everything; the first error ends it.
Result<void> use_all(std::span<std::byte> host) {
  auto device = device_by_ordinal(0);
  if (!device) return only(device);
  auto context = PrimaryContext::retain(*device);
  if (!context) return only(context);
  auto stream = Stream::create(*context);
  if (!stream) return only(stream);
  for (ShareMode mode : {ShareMode::Vmm, ShareMode::LegacyIpc}) {
    auto chunk = Chunk::create(*context, 1, mode);
    if (!chunk) return only(chunk);
    if (auto handle = (*chunk)->export_handle(); !handle) return only(handle);
    if (auto info = classify((*chunk)->base()); !info) return only(info);
  }
  auto ring = EventRing::create(*context, 2);
  if (!ring) return only(ring);
  if (auto handles = (*ring)->export_handles(); !handles) return only(handles);
  auto pinned = PinnedRegion::create(*context, host);
  if (!pinned) return only(pinned);
  auto block = Chunk::create(*context, 1000, ShareMode::Vmm);
  if (!block) return only(block);

  auto guard = ContextGuard::enter(**context);
  if (!guard) return only(guard);
  auto event = make_event(false);
  if (!event) return only(event);
  if (auto put = copy_async((*block)->base(), device_ptr(host.data()), 1000, stream->get(),
                            CopyKind::HostToDevice);
      !put)
    return put;
  if (auto put = record(event->get(), stream->get()); !put) {
    (void)wait_on_host(event->get(), WaitReason::Probe);
    return put;
  }
  return wait_on_host(event->get(), WaitReason::Probe);
}

// Those that give nothing back: what is let go of by a call that fails is lost, whoever calls it.
constexpr const char* kCalls[] = {"cuDeviceGet",
                                  "cuDeviceGetUuid_v2",
                                  "cuDevicePrimaryCtxRetain",
                                  "cuCtxPushCurrent_v2",
                                  "cuCtxGetStreamPriorityRange",
                                  "cuStreamCreateWithPriority",
                                  "cuMemGetAllocationGranularity",
                                  "cuMemCreate",
                                  "cuMemAddressReserve",
                                  "cuMemMap",
                                  "cuMemSetAccess",
                                  "cuMemExportToShareableHandle",
                                  "cuMemAlloc_v2",
                                  "cuIpcGetMemHandle",
                                  "cuPointerGetAttributes",
                                  "cuMemGetAddressRange_v2",
                                  "cuEventCreate",
                                  "cuIpcGetEventHandle",
                                  "cuMemHostRegister_v2",
                                  "cuMemcpyAsync"};

class FailureTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Calls, FailureTest, testing::ValuesIn(kCalls),
                         [](const auto& each) { return std::string(each.param); });

TEST_P(FailureTest, OfEachCallIsAnErrorAndLosesNothing) {
  if (!emulator_has("faults")) return;
  constexpr std::size_t kHost = 1 << 16;
  auto* host = static_cast<std::byte*>(
      ::mmap(nullptr, kHost, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int nth = 1;
  for (bool ended = false; !ended; ++nth) {
    // From that call on each fails, and only that one does.
    for (const char* more : {"+", ""}) {
      emulator_fails(std::string(GetParam()) + ":" + std::to_string(nth) + more + ":2");
      const auto result = use_all({host, kHost});
      emulator_fails("");
      EXPECT_EQ(emulator_holds(), "") << nth << more;
      if (!result) {
        EXPECT_NE(result.error().message.find("(2)"), std::string::npos);
      }
      ended = result.has_value() && *more == '+';
      if (ended) break;
    }
  }
  EXPECT_GT(nth, 2) << "it is not called at all";
  EXPECT_EQ(emulator_reports(), "");
  ::munmap(host, kHost);
}

}  // namespace
}  // namespace tensorferry::cuda
