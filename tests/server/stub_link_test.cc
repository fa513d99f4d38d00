// The server against a stub that the test plays: honest, dying and lying.
#include <gmock/gmock.h>

#include <cstring>

#include "stub_peer.h"

namespace tensorferry::server {
namespace {

using testing::HasSubstr;

constexpr std::size_t kLarge = 64 << 10;

class StubLinkTest : public testing::Test, public InstanceEvents {
 protected:
  void SetUp() override {
    auto sockets = ControlSocket::pair();
    ASSERT_TRUE(sockets);
    auto ours = std::make_shared<ControlSocket>(std::move(sockets->first));
    auto theirs = std::make_shared<ControlSocket>(std::move(sockets->second));
    LinkOptions options;
    options.model = "m";
    options.instance = "m_0_0";
    options.ring_capacity = 64 << 10;
    options.arena.max_bytes = 4 << 20;
    ArenaOptions host_options;
    host_options.max_bytes = 8 << 20;
    host_ = std::make_shared<HostArena>(segments_, host_options);
    auto link = StubLink::open(options, ours, segments_, host_, *this, null_logger());
    ASSERT_TRUE(link) << link.error().message;
    link_ = *link;
    stub_ = std::make_unique<StubPeer>(theirs);
    stub_->shake_hands();
  }

  void TearDown() override {
    if (link_) link_->close({ErrorCode::StubDied, "the test is over", {}});
    stub_.reset();
    link_.reset();
    call_.reset();
    EXPECT_EQ(host_->arena().bytes_in_use(), 0u) << "after everything is let go nothing is in use";
  }

  // InstanceEvents
  void batch_done(std::size_t) noexcept override { ++batches_done_; }
  void give_back(Batch batch) noexcept override {
    given_back_.insert(given_back_.end(), batch.begin(), batch.end());
  }
  void executed(std::uint64_t, std::uint64_t) noexcept override {}

  // A call with one input, in the stub.
  struct TestCall final : Execution {
    Request request_;
    Response response_;
    std::optional<Error> error;
    int responses = 0;
    Completion completion;
    const Request& request() const noexcept override { return request_; }
    Response& response() noexcept override { return response_; }
    void respond(const Error* failed, bool, bool final) noexcept override {
      ++responses;
      if (failed) error = *failed;
      if (final) completion.signal();
    }
  };

  std::shared_ptr<TestCall> make_call(std::size_t bytes, unsigned char fill = 1) {
    auto call = std::make_shared<TestCall>();
    call->request_.id = "r1";
    Tensor input;
    input.name = "IN";
    input.dtype = kUint8;
    input.shape = {static_cast<std::int64_t>(bytes)};
    input.data = bytes < protocol::kInlineBelowBytes ? Buffer::ordinary(bytes)
                                                     : host_->allocate(bytes).value();
    std::memset(input.data.bytes().data(), fill, bytes);
    call->request_.inputs.push_back(std::move(input));
    return call;
  }

  // Sends a request and gives what the stub saw of it.
  SeenBatch send(std::size_t bytes) {
    call_ = make_call(bytes);
    Batch batch{call_};
    EXPECT_TRUE(link_->execute(batch));
    return stub_->next_batch();
  }

  protocol::TensorRecord output(const protocol::MemoryRef& memory) {
    protocol::TensorRecord record;
    record.name = "OUT";
    record.dtype = kUint8;
    shape_ = {static_cast<std::int64_t>(memory.bytes)};
    record.shape = shape_;
    record.memory = memory;
    return record;
  }

  // A segment of the stub's own arena, as a supervisor would see to it.
  Result<protocol::Segment> ask_for_segment(std::uint64_t bytes) {
    link_->on_segment_request({7, bytes});
    auto answer = stub_->take_segment();
    // Segments of the host arena may come in between.
    while (answer && answer->reply_to != 7) answer = stub_->take_segment();
    return answer;
  }

  // Answers the batch's first request with these outputs, giving back `releases`.
  void answer(const SeenBatch& batch, std::vector<protocol::TensorRecord> outputs,
              std::vector<std::uint64_t> releases = {}) {
    protocol::ResponseRecord response;
    response.request = batch.requests.at(0).number;
    response.flags = protocol::kResponseFinal;
    response.outputs = outputs;
    std::vector<protocol::LeaseRelease> wire;
    for (std::uint64_t lease : releases) wire.push_back({lease, {}});
    protocol::Responses message;
    message.batch = batch.number;
    message.batch_done = true;
    message.responses = std::span(&response, 1);
    message.releases = wire;
    ASSERT_TRUE(stub_->send(message));
  }

  void expect_answered() {
    ASSERT_EQ(link_->inbox().wait(call_->completion, Clock::now() + std::chrono::seconds(10)),
              WaitStatus::Done)
        << link_->inbox().error().message;
  }

  // The link notices the lie: its inbox ends with an error that says what was wrong.
  void expect_broken(const std::string& words) {
    Completion never;
    ASSERT_EQ(link_->inbox().wait(never, Clock::now() + std::chrono::seconds(10)),
              WaitStatus::Failed);
    EXPECT_TRUE(link_->broken());
    EXPECT_EQ(link_->why_broken().code, ErrorCode::Protocol);
    EXPECT_THAT(link_->why_broken().message, HasSubstr(words));
    EXPECT_EQ(call_->responses, 0) << "what a liar says reaches nobody";
    link_->close(link_->why_broken());
    EXPECT_EQ(call_->responses, 1);
    ASSERT_TRUE(call_->error);
    EXPECT_EQ(call_->error->context.request_id, "r1");
  }

  std::shared_ptr<SegmentAuthority> segments_ = std::make_shared<SegmentAuthority>();
  std::shared_ptr<HostArena> host_;
  std::shared_ptr<StubLink> link_;
  std::unique_ptr<StubPeer> stub_;
  std::shared_ptr<TestCall> call_;
  std::vector<std::int64_t> shape_;
  std::atomic<int> batches_done_{0};
  Batch given_back_;
};

TEST_F(StubLinkTest, SmallTensorsTravelInline) {
  SeenBatch batch = send(4);
  ASSERT_EQ(batch.requests.size(), 1u);
  const SeenInput& input = batch.requests[0].inputs.at(0);
  EXPECT_EQ(input.memory.kind, protocol::MemoryKind::Inline);
  EXPECT_EQ(input.inline_bytes, std::vector<std::byte>(4, std::byte{1}));
  std::vector<std::byte> bytes(4, std::byte{9});
  protocol::TensorRecord record = output({protocol::MemoryKind::Inline, 0, 0, 4, 0});
  record.inline_bytes = bytes;
  answer(batch, {record});
  expect_answered();
  ASSERT_FALSE(call_->error);
  EXPECT_EQ(call_->response_.outputs.at(0).data.bytes()[3], std::byte{9});
  EXPECT_EQ(batches_done_, 1);
}

TEST_F(StubLinkTest, AnInputThatIsPassedThroughMovesWithoutACopy) {
  SeenBatch batch = send(kLarge);
  protocol::MemoryRef memory = batch.requests[0].inputs[0].memory;
  stub_->at(memory)[5] = std::byte{42};
  const std::byte* there = call_->request_.inputs[0].data.bytes().data();
  CopyCounts before = copy_counts();
  answer(batch, {output(memory)}, {memory.lease});
  expect_answered();
  ASSERT_EQ(call_->response_.outputs.size(), 1u);
  EXPECT_EQ(call_->response_.outputs[0].data.bytes().data(), there);
  EXPECT_EQ(there[5], std::byte{42});
  EXPECT_EQ(copy_counts().calls_of(CopyKind::Host), before.calls_of(CopyKind::Host));
}

TEST_F(StubLinkTest, DisjointPartsOfAnInputCountEachForThemselves) {
  SeenBatch batch = send(kLarge);
  protocol::MemoryRef memory = batch.requests[0].inputs[0].memory;
  protocol::MemoryRef first = memory, second = memory;
  first.bytes = second.bytes = kLarge / 2;
  second.offset += kLarge / 2;
  auto one = output(first);
  answer(batch, {one, output(second)}, {memory.lease});
  expect_answered();
  ASSERT_EQ(call_->response_.outputs.size(), 2u);
  call_->request_.clear();
  std::size_t held = host_->arena().bytes_in_use();
  call_->response_.outputs.erase(call_->response_.outputs.begin());
  EXPECT_EQ(host_->arena().bytes_in_use(), held) << "the other half is still held";
  call_->response_.clear();
  EXPECT_EQ(host_->arena().bytes_in_use(), 0u);
}

TEST_F(StubLinkTest, AnAnswerInTheStubsArenaIsReadInPlaceAndGivenBack) {
  SeenBatch batch = send(4);
  auto segment = ask_for_segment(1 << 20);
  ASSERT_TRUE(segment) << segment.error().message;
  protocol::MemoryRef memory{protocol::MemoryKind::Segment, segment->segment, 4096, kLarge, 11};
  stub_->at(memory)[0] = std::byte{77};
  answer(batch, {output(memory)});
  expect_answered();
  EXPECT_EQ(call_->response_.outputs.at(0).data.bytes()[0], std::byte{77});
  EXPECT_EQ(link_->answers_out_bytes(), kLarge);
  call_->response_.clear();
  EXPECT_EQ(link_->answers_out_bytes(), 0u);
  SeenBatch next = send(4);  // the lease goes home with the next message
  EXPECT_EQ(next.releases, std::vector<std::uint64_t>{11});
}

TEST_F(StubLinkTest, AnAnswerOutlivesItsStubUnchanged) {
  SeenBatch batch = send(4);
  auto segment = ask_for_segment(1 << 20);
  ASSERT_TRUE(segment);
  protocol::MemoryRef memory{protocol::MemoryKind::Segment, segment->segment, 0, kLarge, 1};
  std::memset(stub_->at(memory).data(), 5, kLarge);
  answer(batch, {output(memory)});
  expect_answered();
  Buffer kept = std::move(call_->response_.outputs.at(0).data);
  link_->close({ErrorCode::StubDied, "was killed", {}});
  stub_.reset();
  link_.reset();
  EXPECT_EQ(kept.bytes()[kLarge - 1], std::byte{5});
}

TEST_F(StubLinkTest, AboveHalfOfTheArenaAnswersAreCopiedToOrdinaryMemory) {
  auto segment = ask_for_segment(4 << 20);
  ASSERT_TRUE(segment);
  std::vector<Response> kept;
  constexpr std::size_t kEach = 1 << 20;
  std::uint64_t copied = 0;
  for (std::uint64_t i = 0; i < 4; ++i) {
    SeenBatch batch = send(4);
    protocol::MemoryRef memory{protocol::MemoryKind::Segment, segment->segment, i * kEach, kEach,
                               100 + i};
    CopyCounts before = copy_counts();
    answer(batch, {output(memory)});
    expect_answered();
    copied += copy_counts().bytes_of(CopyKind::Host) - before.bytes_of(CopyKind::Host);
    kept.push_back(std::move(call_->response_));
  }
  EXPECT_EQ(copied, 2 * kEach);
  EXPECT_EQ(link_->answers_out_bytes(), 2 * kEach);
}

TEST_F(StubLinkTest, AStubsArenaCannotExceedItsMaximum) {
  ASSERT_TRUE(ask_for_segment(3 << 20));
  auto denied = ask_for_segment(2 << 20);
  ASSERT_FALSE(denied);
  EXPECT_EQ(denied.error().code, ErrorCode::OutOfSharedMemory);
  EXPECT_THAT(denied.error().message, HasSubstr("4194304"));
}

TEST_F(StubLinkTest, WhenTheStubDiesItsBatchFailsAndTheNextOneGoesBack) {
  send(kLarge);
  auto second = make_call(4);
  Batch batch{second};
  ASSERT_TRUE(link_->execute(batch));
  link_->close({ErrorCode::StubDied, "was killed by signal 9 (SIGKILL)", {}});
  ASSERT_TRUE(call_->error);
  EXPECT_EQ(call_->error->code, ErrorCode::StubDied);
  EXPECT_EQ(call_->error->context.instance, "m_0_0");
  EXPECT_EQ(second->responses, 0);
  ASSERT_EQ(given_back_.size(), 1u);
  EXPECT_EQ(given_back_[0], second);
  Batch late{make_call(4)};
  EXPECT_FALSE(link_->execute(late));
  call_->request_.clear();
}

TEST_F(StubLinkTest, ACancelledRequestIsNamedToTheStub) {
  SeenBatch batch = send(4);
  link_->cancel(*call_);
  Completion never;
  while (stub_->cancelled.empty())
    stub_->channel().inbox().wait(never, Clock::now() + std::chrono::milliseconds(1));
  EXPECT_EQ(stub_->cancelled.at(0), batch.requests[0].number);
}

TEST_F(StubLinkTest, AnAnswerToARequestItDoesNotHaveIsALie) {
  SeenBatch batch = send(4);
  batch.requests[0].number += 1 << 20;
  answer(batch, {});
  expect_broken("which it doesn't have");
}

TEST_F(StubLinkTest, ARangeBeyondTheSegmentIsALie) {
  SeenBatch batch = send(4);
  auto segment = ask_for_segment(1 << 20);
  ASSERT_TRUE(segment);
  answer(batch, {output({protocol::MemoryKind::Segment, segment->segment, 1 << 20, kLarge, 1})});
  expect_broken("");
}

TEST_F(StubLinkTest, ASegmentThatIsNotItsOwnIsALie) {
  SeenBatch batch = send(kLarge);
  protocol::MemoryRef memory = batch.requests[0].inputs[0].memory;
  memory.lease += 1000;
  answer(batch, {output(memory)});
  expect_broken("");
}

TEST_F(StubLinkTest, ARangeOutsideTheInputThatItNamesIsALie) {
  auto other = host_->allocate(kLarge).value();  // a caller's, not given
  SeenBatch batch = send(kLarge);
  protocol::MemoryRef memory = batch.requests[0].inputs[0].memory;
  Block block = host_->arena().lookup(HostBlock::of(other, *host_)->block()).value();
  memory.offset = block.offset;
  answer(batch, {output(memory)}, {memory.lease});
  expect_broken("leaves the input");
}

TEST_F(StubLinkTest, AnInputThatIsAnsweredButKeptIsALie) {
  SeenBatch batch = send(kLarge);
  answer(batch, {output(batch.requests[0].inputs[0].memory)});
  expect_broken("an input that the stub keeps");
}

TEST_F(StubLinkTest, TheSameBytesInTwoOutputsAreALie) {
  SeenBatch batch = send(kLarge);
  protocol::MemoryRef memory = batch.requests[0].inputs[0].memory;
  answer(batch, {output(memory), output(memory)}, {memory.lease});
  expect_broken("names bytes that another one names");
}

TEST_F(StubLinkTest, ARangeThatAnAnswerHoldsIsALie) {
  SeenBatch batch = send(4);
  auto segment = ask_for_segment(1 << 20);
  ASSERT_TRUE(segment);
  answer(batch, {output({protocol::MemoryKind::Segment, segment->segment, 0, kLarge, 1})});
  expect_answered();
  Response held = std::move(call_->response_);
  SeenBatch next = send(4);
  answer(next, {output({protocol::MemoryKind::Segment, segment->segment, 4096, kLarge, 2})});
  expect_broken("");
}

TEST_F(StubLinkTest, ALeaseGivenBackTwiceIsALie) {
  SeenBatch batch = send(kLarge);
  std::uint64_t lease = batch.requests[0].inputs[0].memory.lease;
  answer(batch, {}, {lease, lease});
  Completion never;
  ASSERT_EQ(link_->inbox().wait(never, Clock::now() + std::chrono::seconds(10)),
            WaitStatus::Failed);
  EXPECT_THAT(link_->why_broken().message, HasSubstr("which it doesn't hold"));
  call_->request_.clear();
}

TEST_F(StubLinkTest, AnOverwrittenRingHeaderIsNoticed) {
  send(4);
  auto* header =
      reinterpret_cast<protocol::RingHeader*>(stub_->ring_memory() + ring_bytes(64 << 10));
  header->tail.store(0xFFFF'FFFF'FFFFull);
  expect_broken("");
}

TEST_F(StubLinkTest, AnUnknownRecordIsALie) {
  send(4);
  ASSERT_TRUE(stub_->send(protocol::UserMessage{}));
  expect_broken("not a stub's to send");
}

}  // namespace
}  // namespace tensorferry::server
