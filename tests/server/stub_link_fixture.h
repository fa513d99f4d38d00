// A StubLink with a stub that the test plays, and room for what they say to each other.
#pragma once

#include <gmock/gmock.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "no_gpus.h"
#include "stub_peer.h"

namespace tensorferry::server {

inline constexpr std::size_t kLarge = 64 << 10;

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
    auto link =
        StubLink::open(options, ours, segments_, {host_, no_gpus(segments_)}, *this, null_logger());
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
    int responses = 0, finals = 0, empties = 0;
    Completion completion;
    const Request& request() const noexcept override { return request_; }
    Response& response() noexcept override { return response_; }
    void respond(const Error* failed, bool empty, bool final) noexcept override {
      ++responses;
      empties += empty;
      finals += final;
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

  // Sends a request and answers it with kLarge bytes of `fill` in a new segment of the stub's.
  protocol::Segment answer_in_new_segment(std::byte fill) {
    SeenBatch batch = send(4);
    auto segment = ask_for_segment(1 << 20);
    EXPECT_TRUE(segment);
    if (!segment) return {};
    protocol::MemoryRef memory{protocol::MemoryKind::Segment, segment->segment, 0, kLarge, 1};
    std::memset(stub_->at(memory).data(), std::to_integer<int>(fill), kLarge);
    answer(batch, {output(memory)});
    expect_answered();
    return *segment;
  }

  // Answers the batch's first request with these outputs, giving back `releases`.
  void answer(const SeenBatch& batch, std::vector<protocol::TensorRecord> outputs,
              const std::vector<std::uint64_t>& releases = {}) {
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
    EXPECT_THAT(link_->why_broken().message, testing::HasSubstr(words));
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

}  // namespace tensorferry::server
