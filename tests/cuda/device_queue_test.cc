#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/device_queue.h>

#include <atomic>
#include <thread>

#include "fake_driver.h"

namespace tensorferry::cuda {
namespace {

class Queue final : public DeviceQueue {
 public:
  using DeviceQueue::DeviceQueue;
};

class DeviceQueueTest : public GpuTest {
 protected:
  static constexpr Variables kNothingRuns = {{"FAKECUDA_SCHED", "lazy"},
                                             {"FAKECUDA_POLLS", "1000000000"}};
  std::unique_ptr<Queue> make() {
    auto parts = DeviceQueue::make(context()->device(), std::make_shared<CompletionPoller>());
    EXPECT_TRUE(parts);
    return std::make_unique<Queue>(std::move(*parts));
  }
};

TEST_F(DeviceQueueTest, NothingIsSaidToBeDoneBeforeItIsHoweverMuchIsUnderWay) {
  if (!in_own_process(kNothingRuns)) return;
  auto queue = make();
  const auto chunk = *Chunk::create(context(), 2 << 20, ShareMode::Vmm);
  ASSERT_TRUE(queue->enqueue([&](StreamHandle ours) {
    return copy_async(chunk->base(), chunk->base() + 4096, 4096, ours, CopyKind::DeviceToDevice);
  }));
  constexpr int kMarks = 3000;
  std::atomic<int> done{0}, failed{0};
  const StreamHandle ours = queue->stream();
  for (int i = 0; i < kMarks; ++i)
    queue->when_done(std::span(&ours, 1), [&](Result<void> how) { ++(how ? done : failed); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(done + failed, 0);
  emulator_advances();
  while (done + failed < kMarks) std::this_thread::yield();
  EXPECT_EQ(failed, 0);
}

TEST_F(DeviceQueueTest, MarksAreUsedAgain) {
  if (!emulator_has("counters")) return;
  auto queue = make();
  ASSERT_TRUE(queue->wait(WaitReason::Probe));
  const auto events = emulator_counters().events_created;
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(queue->wait(WaitReason::Probe));
  EXPECT_EQ(emulator_counters().events_created, events);
}

}  // namespace
}  // namespace tensorferry::cuda
