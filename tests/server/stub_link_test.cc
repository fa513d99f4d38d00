// The server against a stub that the test plays: honest, dying and lying.
#include "stub_link_fixture.h"

namespace tensorferry::server {
namespace {

using testing::HasSubstr;

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
  answer_in_new_segment(std::byte{5});
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

TEST_F(StubLinkTest, AnImpossibleIndexOfOurRingEndsTheLinkAndTheBatchGoesElsewhere) {
  send(4);
  auto* header = reinterpret_cast<protocol::RingHeader*>(stub_->ring_memory());
  header->head.store(0xFFFF'FFFF'FFFFull);
  Result<void> sent;
  std::shared_ptr<TestCall> last;
  for (int i = 0; sent && i < 10'000; ++i) {  // the index is looked at when the ring seems full
    last = make_call(4);
    Batch batch{last};
    sent = link_->execute(batch);
  }
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::Unavailable);
  EXPECT_EQ(last->responses, 0);
  expect_broken("broke the protocol");
}

TEST_F(StubLinkTest, ABatchIsNotDoneBeforeEachRequestIsAnswered) {
  SeenBatch batch = send(4);
  protocol::Responses message;
  message.batch = batch.number;
  message.batch_done = true;
  ASSERT_TRUE(stub_->send(message));
  expect_broken("without an answer to request 'r1'");
}

// ---------------------------------------------------------------- devices that weren't offered

TEST_F(StubLinkTest, AnEventOfADeviceThatWasNotOfferedIsALie) {
  SeenBatch batch = send(4);
  const protocol::EventSlot event{{DeviceKind::Cuda, 0}, 0, 1};
  protocol::Responses message;
  message.batch = batch.number;
  message.ready = std::span(&event, 1);
  ASSERT_TRUE(stub_->send(message));
  expect_broken("an event of a device it wasn't offered");
}

TEST_F(StubLinkTest, AnOutputOnADeviceThatWasNotOfferedIsALie) {
  SeenBatch batch = send(4);
  auto on_device = output({protocol::MemoryKind::DeviceChunk, 1, 0, 8192, 1});
  on_device.device = {DeviceKind::Cuda, 0};
  answer(batch, {on_device});
  expect_broken("lies on a device that was not offered");
}

TEST_F(StubLinkTest, DeviceMemoryThatAStubDoesNotHoldIsNotReadForIt) {
  send(8192);
  const protocol::MemoryRef nothing{protocol::MemoryKind::DeviceChunk, 1, 0, 8192, 77};
  auto read = link_->on_read_device({1, nothing});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::Protocol);
  // A loan of the host's arena is none of a device's.
  const protocol::MemoryRef input{protocol::MemoryKind::Segment, 1, 0, 8192, 1};
  EXPECT_FALSE(link_->on_read_device({2, input}));
  EXPECT_FALSE(link_->on_device_request({3, "no UUID"}));
  EXPECT_FALSE(link_->on_probe_report({}));
}

// ---------------------------------------------------------------- more than one response

class ManyResponses : public StubLinkTest {
 protected:
  void SetUp() override {
    StubLinkTest::SetUp();
    batch_ = send(4);
  }

  // One response of one inline byte to the request, or of nothing.
  protocol::ResponseRecord response(std::uint32_t flags, bool with_output) {
    protocol::ResponseRecord record;
    record.request = batch_.requests.at(0).number;
    record.flags = flags;
    if (!with_output) return record;
    output_ = output({protocol::MemoryKind::Inline, 0, 0, 1, 0});
    output_.inline_bytes = std::span(&kByte, 1);
    record.outputs = std::span(&output_, 1);
    return record;
  }

  void say(std::vector<protocol::ResponseRecord> responses, bool done = false) {
    protocol::Responses message;
    message.batch = batch_.number;
    message.batch_done = done;
    message.responses = responses;
    ASSERT_TRUE(stub_->send(message));
    link_->inbox().settle(Clock::now() + std::chrono::seconds(10));
  }

  void expect_refused(int responses) {
    ASSERT_TRUE(link_->broken());
    EXPECT_EQ(link_->why_broken().code, ErrorCode::Protocol);
    EXPECT_THAT(link_->why_broken().message, HasSubstr("which it doesn't have"));
    link_->close(link_->why_broken());
    EXPECT_EQ(call_->responses, responses) << "who has his answer gets no other one";
    EXPECT_EQ(call_->finals, 1);
    EXPECT_FALSE(call_->error);
  }

  static constexpr std::byte kByte{9};
  protocol::TensorRecord output_;
  SeenBatch batch_;
};

TEST_F(ManyResponses, ComeOneByOneUntilTheFinalOne) {
  for (int i = 1; i <= 3; ++i) {
    say({response(0, true)});
    EXPECT_EQ(call_->responses, i);
    EXPECT_EQ(call_->response_.outputs.size(), 1u) << "each for itself";
    EXPECT_EQ(link_->batches_inside(), 1u);
  }
  EXPECT_EQ(call_->finals, 0);
  say({response(protocol::kResponseFinal, true)}, true);
  EXPECT_EQ(call_->responses, 4);
  EXPECT_EQ(call_->finals, 1);
  EXPECT_EQ(call_->empties, 0);
  EXPECT_EQ(link_->batches_inside(), 0u);
  EXPECT_EQ(batches_done_, 1);
}

TEST_F(ManyResponses, MayComeInOneMessage) {
  say({response(0, false), response(0, true), response(protocol::kResponseFinal, true)}, true);
  ASSERT_FALSE(link_->broken()) << link_->why_broken().message;
  EXPECT_EQ(call_->responses, 3);
  EXPECT_EQ(call_->finals, 1);
}

TEST_F(ManyResponses, MayEndWithAFlagThatBringsNone) {
  say({response(0, true)});
  auto end = response(protocol::kResponseFinal, false);
  end.empty = true;
  say({end}, true);
  ASSERT_FALSE(link_->broken()) << link_->why_broken().message;
  EXPECT_EQ(call_->responses, 2);
  EXPECT_EQ(call_->empties, 1);
  EXPECT_EQ(call_->finals, 1);
  EXPECT_TRUE(call_->response_.outputs.empty()) << "nothing of the one before is left";
}

TEST_F(ManyResponses, MayNotGoOnOnceTheBatchIsDone) {
  say({response(0, true)}, true);
  ASSERT_TRUE(link_->broken());
  EXPECT_THAT(link_->why_broken().message, HasSubstr("without an answer to request 'r1'"));
  link_->close(link_->why_broken());
  EXPECT_EQ(call_->finals, 1);
  EXPECT_TRUE(call_->error);
}

TEST_F(ManyResponses, AfterTheFinalOneAreLies) {
  say({response(protocol::kResponseFinal, true)});
  ASSERT_FALSE(link_->broken());
  say({response(protocol::kResponseFinal, true)});
  expect_refused(1);
}

TEST_F(ManyResponses, AfterTheFinalOneOfTheSameMessageAreLies) {
  say({response(protocol::kResponseFinal, true), response(0, true)}, true);
  expect_refused(1);
}

TEST_F(ManyResponses, ToAnEarlierRequestOfTheSamePlaceAreLies) {
  say({response(protocol::kResponseFinal, true)}, true);
  const auto first = std::move(call_);
  const auto stale = response(protocol::kResponseFinal, true);
  batch_ = send(4);
  ASSERT_NE(batch_.requests.at(0).number, stale.request);
  say({stale});
  ASSERT_TRUE(link_->broken());
  EXPECT_EQ(first->responses, 1);
  EXPECT_EQ(call_->responses, 0);
}

TEST_F(StubLinkTest, TooManySegmentsAreRefusedBeforeDescriptorsRunOut) {
  int granted = 0;
  Result<protocol::Segment> answer;
  while (granted < 2000 && (answer = ask_for_segment(4096))) ++granted;
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::OutOfSharedMemory);
  EXPECT_THAT(answer.error().message, HasSubstr("segments already"));
  EXPECT_FALSE(link_->broken());
}

// ---------------------------------------------------------------- idle memory

TEST_F(StubLinkTest, ASegmentThatAStubDropsIsNoLongerCounted) {
  auto segment = ask_for_segment(1 << 20);
  ASSERT_TRUE(segment);
  EXPECT_EQ(link_->stub_arena_bytes(), 1u << 20);
  ASSERT_TRUE(link_->on_stub_dropped_segment(segment->segment));
  EXPECT_EQ(link_->stub_arena_bytes(), 0u);
  EXPECT_EQ(link_->stub_arena_peak_bytes(), 1u << 20);
  auto again = link_->on_stub_dropped_segment(segment->segment);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::Protocol);
  EXPECT_THAT(again.error().message, HasSubstr("which it doesn't have"));
}

TEST_F(StubLinkTest, ASegmentOfWhichAnAnswerIsHeldMayNotBeDropped) {
  const auto segment = answer_in_new_segment(std::byte{5});
  auto refused = link_->on_stub_dropped_segment(segment.segment);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Protocol);
  EXPECT_THAT(refused.error().message, HasSubstr("of which answers are held"));
  EXPECT_EQ(call_->response_.outputs.at(0).data.bytes()[7], std::byte{5});
  EXPECT_EQ(link_->stub_arena_bytes(), 1u << 20);
  call_->response_.clear();
  EXPECT_TRUE(link_->on_stub_dropped_segment(segment.segment));
}

TEST_F(StubLinkTest, TrimGivesBackWhatCallersLetGoOfAndAsksTheStub) {
  SeenBatch batch = send(4);
  auto segment = ask_for_segment(1 << 20);
  ASSERT_TRUE(segment);
  answer(batch, {output({protocol::MemoryKind::Segment, segment->segment, 0, kLarge, 11})});
  expect_answered();
  call_->response_.clear();
  link_->trim();
  auto message = stub_->socket().receive(Clock::now() + std::chrono::seconds(10));
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->kind, protocol::ControlKind::Trim);
  EXPECT_TRUE(stub_->channel().inbox().poll()) << "what was given back lies in the ring already";
  EXPECT_EQ(stub_->released, std::vector<std::uint64_t>{11});
}

TEST_F(StubLinkTest, TrimReadsWhatTheStubGaveBackWithoutHurry) {
  SeenBatch batch = send(kLarge);
  std::uint64_t lease = batch.requests[0].inputs[0].memory.lease;
  answer(batch, {});
  expect_answered();
  call_->request_.clear();
  EXPECT_GT(host_->arena().bytes_in_use(), 0u);
  protocol::LeaseRelease release{lease, {}};
  ASSERT_TRUE(stub_->channel().send(protocol::Release{std::span(&release, 1)}, Urgency::Lazy));
  link_->trim();
  // The background reader may have the lead just now: then it reads it.
  const auto limit = Clock::now() + std::chrono::seconds(20);
  while (host_->arena().bytes_in_use() > 0 && Clock::now() < limit) std::this_thread::yield();
  EXPECT_EQ(host_->arena().bytes_in_use(), 0u);
}

TEST_F(StubLinkTest, AStubIsToldOfTheSegmentsThatItsModelsArenaDrops) {
  std::optional<Buffer> held = host_->allocate(1 << 20).value();
  protocol::Segment told = stub_->take_segment().value();
  EXPECT_EQ(host_->arena().trim(0), 0u) << "what is held stays";
  held.reset();
  EXPECT_GE(host_->arena().trim(0), 1u << 20);
  auto message = stub_->socket().receive(Clock::now() + std::chrono::seconds(10));
  ASSERT_TRUE(message && *message);
  ASSERT_EQ((*message)->kind, protocol::ControlKind::SegmentDropped);
  Scratch scratch;
  EXPECT_EQ(decode<protocol::SegmentDropped>((*message)->body, scratch).value().segment,
            told.segment);
}

}  // namespace
}  // namespace tensorferry::server
