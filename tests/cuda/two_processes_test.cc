// Server and stub at work on the same memory, by the parts of this library alone. Short, since
// these run under many seeds of the emulated driver's random scheduler (tools/seeds.py).
#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/gpu_error.h>

#include <future>

#include "fake_driver.h"
#include "owned_event.h"
#include "peer.h"

namespace tensorferry::cuda {
namespace {

constexpr std::size_t kBytes = 32 << 10;
constexpr std::uint32_t kSlots = 4;  // requests under way

std::string mode_name(const testing::TestParamInfo<ShareMode>& info) {
  return info.param == ShareMode::Vmm ? "Vmm" : "LegacyIpc";
}

class TwoProcesses : public GpuTest, public testing::WithParamInterface<ShareMode> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    for (auto* stream : {&caller_, &server_}) *stream = make_stream();
    chunk_ = Chunk::create(context(), 2 << 20, GetParam()).value();
    ring_ = EventRing::create(context(), 2 * kSlots).value();
    auto guard = enter();
    written_ = make_event(false).value();
    poller_ = std::make_unique<CompletionPoller>();
    peer_ = std::make_unique<Peer>();
    ASSERT_STREQ(peer_->open(*chunk_).text, "");
    ASSERT_EQ(peer_->open(*ring_).numbers[0], 2 * kSlots);
  }
  void TearDown() override {
    if (peer_ && peer_->pid() > 0) {
      EXPECT_STREQ(peer_->ask({.verb = PeerVerb::Close}).text, "");
    }
    peer_.reset();
    for (const auto* stream : {&caller_, &server_}) {
      if (*stream) finish(**stream);
    }
    poller_.reset();
    ring_.reset();
    chunk_.reset();
    if (context()) {
      auto guard = enter();
      written_ = {};
    }
    for (auto* stream : {&caller_, &server_}) stream->reset();
    GpuTest::TearDown();
  }

  // Of each slot: where the caller has its data, the input and the output.
  static std::uint64_t source(std::uint64_t slot) { return 3 * slot * kBytes; }
  static std::uint64_t input(std::uint64_t slot) { return source(slot) + kBytes; }
  static std::uint64_t output(std::uint64_t slot) { return source(slot) + 2 * kBytes; }
  DevicePtr at(std::uint64_t offset) const { return chunk_->base() + offset; }

  // A request: what the caller's stream has written is copied on the server's into the input, and
  // the peer makes the output of that.
  void send(std::uint32_t slot, std::uint64_t seed) {
    const auto bytes = pattern(kBytes, seed);
    auto guard = enter();
    ASSERT_TRUE(copy_async(at(source(slot)), device_ptr(bytes.data()), kBytes, caller_->get(),
                           CopyKind::HostToDevice));
    ASSERT_TRUE(record(written_.get(), caller_->get()));
    ASSERT_TRUE(wait_event(server_->get(), written_.get()));
    ASSERT_TRUE(copy_async(at(input(slot)), at(source(slot)), kBytes, server_->get(),
                           CopyKind::DeviceToDevice));
    ASSERT_TRUE(record(ring_->at(2 * slot), server_->get()));
    peer_->tell({.verb = PeerVerb::Copy,
                 .numbers = {input(slot), output(slot), kBytes, std::uint64_t{slot}}});
  }
  std::future<Result<void>> watch(std::uint32_t slot) {
    auto promise = std::make_shared<std::promise<Result<void>>>();
    poller_->watch(ring_->at(2 * slot + 1), 1,
                   [promise](Result<void> how) { promise->set_value(std::move(how)); });
    return promise->get_future();
  }

  std::optional<Stream> caller_, server_;
  Event written_;
  std::shared_ptr<Chunk> chunk_;
  std::unique_ptr<EventRing> ring_;
  std::unique_ptr<CompletionPoller> poller_;
  std::unique_ptr<Peer> peer_;
};
INSTANTIATE_TEST_SUITE_P(Modes, TwoProcesses, testing::Values(ShareMode::Vmm, ShareMode::LegacyIpc),
                         mode_name);

TEST_P(TwoProcesses, GiveEachOthersStreamsWorkSeveralRequestsAhead) {
  for (std::uint64_t round = 0; round < 3; ++round) {
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) send(slot, 10 * round + slot);
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      ASSERT_STREQ(peer_->hear().text, "");
      ASSERT_TRUE(watch(slot).get());
      EXPECT_EQ(read(at(output(slot)), kBytes), pattern(kBytes, 10 * round + slot));
    }
  }
}

TEST_P(TwoProcesses, OneOfThemMayDieAtWork) {
  for (std::uint32_t slot = 0; slot < kSlots; ++slot) send(slot, slot);
  ASSERT_STREQ(peer_->hear().text, "");  // the first one is recorded, the others may be
  auto done = watch(0);
  peer_->kill();
  poller_->cancel(1, gpu_failure(GpuErrorKind::PeerDied, "killed").error());
  const auto how = done.get();
  EXPECT_TRUE(how || is_gpu_error(how.error(), GpuErrorKind::PeerDied)) << how.error().message;
  write(at(output(0)), pattern(kBytes, 99));
  EXPECT_EQ(read(at(output(0)), kBytes), pattern(kBytes, 99));
}

}  // namespace
}  // namespace tensorferry::cuda
