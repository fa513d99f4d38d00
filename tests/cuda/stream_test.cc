#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>

#include "fake_driver.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

class StreamTest : public GpuTest {
 protected:
  std::shared_ptr<Chunk> make_chunk() {
    auto chunk = Chunk::create(context(), 2 << 20, ShareMode::Vmm);
    EXPECT_TRUE(chunk) << chunk.error().message;
    return *chunk;
  }
};

TEST_F(StreamTest, OneWaitsForAnotherByAnEventAndNobodyOnTheHost) {
  auto memory = make_chunk();
  auto first = make_stream();
  auto second = make_stream();
  const auto bytes = pattern(4096, 1);
  const auto before = emulator_counters();
  {
    auto guard = enter();
    auto event = make_event(false);
    ASSERT_TRUE(copy_async(memory->base(), device_ptr(bytes.data()), 4096, first.get(),
                           CopyKind::HostToDevice));
    ASSERT_TRUE(record(event->get(), first.get()));
    ASSERT_TRUE(wait_event(second.get(), event->get()));
    ASSERT_TRUE(copy_async(memory->base() + 8192, memory->base(), 4096, second.get(),
                           CopyKind::DeviceToDevice));
    const auto after = emulator_counters();
    EXPECT_EQ(after.event_queries, before.event_queries);
    EXPECT_EQ(after.stream_syncs + after.event_syncs + after.context_syncs,
              before.stream_syncs + before.event_syncs + before.context_syncs);
    finish(second);
  }
  EXPECT_EQ(read(memory->base() + 8192, 4096), bytes);
}

TEST_F(StreamTest, AnEventThatIsNotDoneSaysSo) {
  auto guard = enter();
  auto event = make_event(false);
  EXPECT_TRUE(query(event->get()).value()) << "never recorded";
  auto stream = make_stream();
  ASSERT_TRUE(record(event->get(), stream.get()));
  ASSERT_TRUE(wait_on_host(event->get(), WaitReason::HostArray));
  EXPECT_TRUE(query(event->get()).value());
}

TEST_F(StreamTest, WaitingOnTheHostIsCountedByReason) {
  auto guard = enter();
  auto event = make_event(false);
  const auto before = host_waits(WaitReason::BareCapsule);
  ASSERT_TRUE(wait_on_host(event->get(), WaitReason::BareCapsule));
  EXPECT_EQ(host_waits(WaitReason::BareCapsule), before + 1);
}

TEST_F(StreamTest, IsNotCapturingByItself) {
  auto stream = make_stream();
  auto guard = enter();
  EXPECT_FALSE(is_capturing(stream.get()).value());
}

TEST_F(StreamTest, AnEventCanStandForAllOfAContext) {
  auto stream = make_stream();
  auto guard = enter();
  auto event = make_event(false);
  ASSERT_TRUE(record_context(*context(), event->get()));
  EXPECT_TRUE(wait_on_host(event->get(), WaitReason::NoStream));
}

TEST_F(StreamTest, DoesNotWaitForTheLegacyStream) {
  if (!in_own_process({{"FAKECUDA_SCHED", "lazy"}})) return;
  auto memory = make_chunk();
  auto stream = make_stream();
  auto guard = enter();
  auto legacy = make_event(false);
  ASSERT_TRUE(copy_async(memory->base() + 4096, memory->base(), 4096, legacy_stream(),
                         CopyKind::DeviceToDevice));
  ASSERT_TRUE(record(legacy->get(), legacy_stream()));
  finish(stream);
  EXPECT_FALSE(query(legacy->get()).value()) << "what a model does there holds nobody up";
  ASSERT_TRUE(wait_on_host(legacy->get(), WaitReason::Probe));
}

TEST_F(StreamTest, MovesAndLeavesNone) {
  auto stream = make_stream();
  auto moved = std::move(stream);
  EXPECT_NE(moved.get(), nullptr);
  EXPECT_EQ(stream.get(), nullptr);  // NOLINT(bugprone-use-after-move): what moving leaves
}

TEST_F(StreamTest, ABrokenContextIsToldFromOtherErrors) {
  if (!in_own_process()) return;
  auto stream = make_stream();
  auto guard = enter();
  emulator_fails("cuMemcpyAsync:1:700");
  auto done = copy_async(1 << 20, 2 << 20, 16, stream.get(), CopyKind::DeviceToDevice);
  ASSERT_FALSE(done);
  EXPECT_EQ(gpu_word(done.error()), "gpu_sticky(700)");
}

}  // namespace
}  // namespace tensorferry::cuda
