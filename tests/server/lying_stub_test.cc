// Every field of what a stub says, changed: the server lives, nothing but what the stub answered
// itself changes, and everything is given back at the end.
#include <thread>

#include "field_walk.h"
#include "stub_link_fixture.h"

namespace tensorferry::server {
namespace {

constexpr std::size_t kRing = 64 << 10;

class LyingStubTest : public StubLinkTest {
 protected:
  // A caller's own array in the same arena, not given; and another model's arena.
  void SetUp() override {
    StubLinkTest::SetUp();
    bystander_ = host_->allocate(kLarge).value();
    std::memset(bystander_->bytes().data(), 0x5A, kLarge);
    other_ = std::make_shared<HostArena>(segments_, ArenaOptions{});
    others_ = other_->allocate(kLarge).value();
    std::memset(others_->bytes().data(), 0x6B, kLarge);
    writer_.emplace(stub_->ring_memory() + ring_bytes(kRing), kRing);
  }

  void TearDown() override {
    for (std::byte byte : bystander_->bytes()) ASSERT_EQ(byte, std::byte{0x5A});
    for (std::byte byte : others_->bytes()) ASSERT_EQ(byte, std::byte{0x6B});
    bystander_.reset();
    others_.reset();
    EXPECT_EQ(other_->arena().bytes_in_use(), 0u);
    link_->close({ErrorCode::StubDied, "the test is over", {}});
    for (const auto& call : calls_) EXPECT_EQ(call->finals, 1) << "each ends once";
    calls_.clear();
    StubLinkTest::TearDown();
  }

  // Two requests that the stub is at, and a segment of its own.
  void prepare() {
    calls_ = {make_call(kLarge), make_call(kLarge)};
    Batch batch{calls_[0], calls_[1]};
    ASSERT_TRUE(link_->execute(batch));
    seen_ = stub_->next_batch();
    auto segment = ask_for_segment(1 << 20);
    ASSERT_TRUE(segment) << segment.error().message;
    segment_ = segment->segment;
  }

  // An answer with one of everything: moved input, own range, inline, parameters, an error.
  std::vector<std::byte> answer_of_everything() {
    const SeenInput& input = seen_.requests.at(0).inputs.at(0);
    const std::int64_t large[] = {kLarge}, matrix[] = {2, 2};
    const std::vector<std::byte> small(4, std::byte{3});
    std::vector<protocol::TensorRecord> outputs(3);
    for (auto& output : outputs) {
      output.name = "OUT";
      output.dtype = kUint8;
      output.shape = large;
    }
    outputs[0].memory = input.memory;
    outputs[1].memory = {protocol::MemoryKind::Segment, segment_, 8192, kLarge, 77};
    outputs[2].shape = matrix;
    outputs[2].memory.bytes = small.size();
    outputs[2].inline_bytes = small;
    std::vector<protocol::Parameter> parameters(2);
    parameters[0].key = "number";
    parameters[0].integer = 5;
    parameters[1].key = "text";
    parameters[1].kind = protocol::ParameterKind::String;
    parameters[1].text = "value";
    std::vector<protocol::ResponseRecord> responses(2);
    responses[0].request = seen_.requests[0].number;
    responses[0].flags = protocol::kResponseFinal;
    responses[0].parameters = parameters;
    responses[0].outputs = outputs;
    responses[1].request = seen_.requests[1].number;
    responses[1].flags = protocol::kResponseFinal;
    responses[1].failed = true;
    responses[1].error = "no";
    const protocol::EventSlot slots[] = {{}};
    const protocol::LeaseRelease releases[] = {
        {input.memory.lease, {}}, {seen_.requests[1].inputs.at(0).memory.lease, slots}};
    protocol::Responses message;
    message.batch = seen_.number;
    message.batch_done = true;
    message.responses = responses;
    message.releases = releases;
    message.execute_ns = 1000;
    fields_ = FieldWalk::of(message);
    std::vector<std::byte> bytes(encoded_bytes(message));
    EXPECT_EQ(encode(message, bytes), bytes.size());
    return bytes;
  }

  // Puts bytes into the ring as they are, and waits until they are read.
  void say(std::span<const std::byte> body,
           protocol::RecordKind kind = protocol::RecordKind::Responses) {
    auto room = writer_->claim(body.size());
    ASSERT_TRUE(room && *room);
    std::memcpy((*room)->data(), body.data(), body.size());
    writer_->commit(kind, body.size(), false, Urgency::Urgent);
    until_read();
  }

  void until_read() {
    auto* header =
        reinterpret_cast<protocol::RingHeader*>(stub_->ring_memory() + ring_bytes(kRing));
    const auto limit = Clock::now() + std::chrono::seconds(20);
    while (header->head.load() != header->tail.load() && !link_->broken()) {
      (void)link_->inbox().poll();
      ASSERT_LT(Clock::now(), limit);
    }
    // Read is not handled: whoever reads has the lead until then.
    while (!link_->broken() && !link_->inbox().poll()) std::this_thread::yield();
  }

  std::optional<Buffer> bystander_, others_;
  std::shared_ptr<HostArena> other_;
  std::optional<RingWriter> writer_;
  std::vector<std::shared_ptr<TestCall>> calls_;
  std::vector<EncodedField> fields_;
  SeenBatch seen_;
  SegmentId segment_ = 0;
};

TEST_F(LyingStubTest, TheUnchangedAnswerIsGood) {
  prepare();
  say(answer_of_everything());
  ASSERT_FALSE(link_->broken()) << link_->why_broken().message;
  ASSERT_EQ(calls_[0]->response_.outputs.size(), 3u);
  EXPECT_EQ(calls_[0]->response_.parameters.size(), 2u);
  ASSERT_TRUE(calls_[1]->error);
  EXPECT_EQ(link_->batches_inside(), 0u);
}

TEST_F(LyingStubTest, EveryFieldOfAnAnswerChanged) {
  prepare();
  const std::size_t count = (answer_of_everything(), fields_.size());
  ASSERT_GT(count, 60u);
  int refused = 0, harmless = 0;
  for (std::size_t field = 0; field < count; ++field) {
    for (std::size_t which = 0;; ++which) {
      TearDown();
      SetUp();
      prepare();
      const std::vector<std::byte> valid = answer_of_everything();
      auto changed = mutations(valid, fields_[field]);
      if (which >= changed.size()) break;
      SCOPED_TRACE("field " + fields_[field].path + ", change " + std::to_string(which));
      say(changed[which]);
      if (HasFatalFailure()) return;
      (link_->broken() ? refused : harmless) += 1;
      if (link_->broken()) {
        ASSERT_EQ(link_->why_broken().code, ErrorCode::Protocol) << link_->why_broken().message;
      }
    }
  }
  EXPECT_GT(refused, harmless) << "most of a message is checked";
}

TEST_F(LyingStubTest, AnAnswerThatEndsAnywhere) {
  prepare();
  const std::size_t size = answer_of_everything().size();
  for (std::size_t length = 0; length < size; ++length) {
    TearDown();
    SetUp();
    prepare();
    const std::vector<std::byte> whole = answer_of_everything();
    say(std::span(whole).first(length));
    ASSERT_TRUE(link_->broken()) << length;
    ASSERT_EQ(link_->why_broken().code, ErrorCode::Protocol);
  }
}

TEST_F(LyingStubTest, EveryRecordKindThatIsNotAStubs) {
  for (std::uint16_t kind : {1, 2, 5, 64, 65, 0x7FFF, 0xFFFF}) {
    TearDown();
    SetUp();
    prepare();
    say(std::vector<std::byte>(16), static_cast<protocol::RecordKind>(kind));
    ASSERT_TRUE(link_->broken()) << kind;
  }
}

TEST_F(LyingStubTest, OneByteOutputsOfAnInputMayBeManyButNoneTwice) {
  constexpr std::size_t kOutputs = 100;
  for (bool twice : {false, true}) {
    TearDown();
    SetUp();
    prepare();
    const protocol::MemoryRef& input = seen_.requests.at(0).inputs.at(0).memory;
    const std::int64_t one[] = {1};
    std::vector<protocol::TensorRecord> outputs(kOutputs);
    for (std::size_t i = 0; i < kOutputs; ++i) {
      outputs[i].dtype = kUint8;
      outputs[i].shape = one;
      outputs[i].memory = input;
      outputs[i].memory.offset += twice && i == 99 ? 50 : kOutputs - i;
      outputs[i].memory.bytes = 1;
    }
    protocol::ResponseRecord response;
    response.request = seen_.requests[0].number;
    response.flags = protocol::kResponseFinal;
    response.outputs = outputs;
    const protocol::LeaseRelease release{input.lease, {}};
    protocol::Responses message;
    message.batch = seen_.number;
    message.responses = std::span(&response, 1);
    message.releases = std::span(&release, 1);
    std::vector<std::byte> bytes(encoded_bytes(message));
    encode(message, bytes);
    say(bytes);
    EXPECT_EQ(link_->broken(), twice);
    EXPECT_EQ(calls_[0]->finals, twice ? 0 : 1);
  }
}

TEST_F(LyingStubTest, ALeaseThatIsNeverGivenBackIsVoidWhenItsStubDies) {
  prepare();
  for (const auto& call : calls_) call->request_.clear();
  EXPECT_GT(host_->arena().bytes_in_use(), 2 * kLarge) << "the stub holds its inputs";
  link_->close({ErrorCode::StubDied, "was killed", {}});
  bystander_ = Buffer::ordinary(kLarge);
  std::memset(bystander_->bytes().data(), 0x5A, kLarge);
  EXPECT_EQ(host_->arena().bytes_in_use(), 0u);
}

// Both ring headers overwritten, again and again, while threads wait on both sides.
TEST_F(LyingStubTest, NobodyHangsWhileTheRingHeadersAreOverwritten) {
  constexpr std::array kPatterns{0xFF, 0x00, 0x01, 0x80};
  for (int round = 0; round < 40; ++round) {
    TearDown();
    SetUp();
    prepare();
    std::vector<std::thread> waiters;
    for (const auto& call : calls_) {
      waiters.emplace_back([&] {
        EXPECT_NE(link_->inbox().wait(call->completion, Clock::now() + std::chrono::seconds(60)),
                  WaitStatus::TimedOut);
      });
    }
    std::atomic<bool> over{false};
    std::thread vandal([&] {
      // All but the tail that the server reads in the first rounds, so that words alone are spoilt.
      const std::size_t from = round % 2 ? 0 : sizeof(std::uint64_t);
      while (!over) {
        for (std::size_t direction : {std::size_t{0}, ring_bytes(kRing)}) {
          for (std::size_t i = from; i < sizeof(protocol::RingHeader); i += 4) {
            std::atomic_ref(*reinterpret_cast<std::uint32_t*>(stub_->ring_memory() + direction + i))
                .store(static_cast<std::uint32_t>(kPatterns[static_cast<std::size_t>(round) % 4]) *
                           0x01010101u,
                       std::memory_order_relaxed);
          }
        }
        std::this_thread::yield();
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // As a supervisor does: the process is dead before the link is closed.
    over = true;
    vandal.join();
    link_->close({ErrorCode::StubDied, "was killed by signal 9 (SIGKILL)", {}});
    for (std::thread& waiter : waiters) waiter.join();
  }
}

}  // namespace
}  // namespace tensorferry::server
