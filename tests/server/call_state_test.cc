// One request from submit to take, with several threads at it.
#include <gmock/gmock.h>

#include <thread>

#include "scheduler_fixture.h"

namespace tensorferry::server {
namespace {

using std::chrono::milliseconds;

class CallStateTest : public SchedulerTest {};

TEST_F(CallStateTest, OnDoneIsCalledOnceHoweverCancelAndAnswerRace) {
  start({});
  connect();
  int answered = 0;
  constexpr int kRounds = 300;
  for (int i = 0; i < kRounds; ++i) {
    std::atomic<int> done{0};
    auto call = make("r", 1, 1, [&] { ++done; });
    ASSERT_TRUE(scheduler_->submit(call));
    SeenBatch batch = stub().next_batch();
    std::thread canceller([&] { call->cancel(ErrorCode::Cancelled, "perhaps"); });
    answer(batch);
    ASSERT_TRUE(call->wait(soon()));
    canceller.join();
    Response response;
    answered += call->take(response).has_value();
    while (done == 0) std::this_thread::yield();
    EXPECT_EQ(done, 1);
    // The stub has ended the batch before the next begins.
    while (instances_[0].link->batches_inside() > 0) std::this_thread::yield();
    EXPECT_EQ(done, 1);
  }
  SchedulerCounts counts = scheduler_->counts();
  EXPECT_EQ(counts.succeeded, static_cast<std::uint64_t>(answered));
  EXPECT_EQ(counts.succeeded + counts.cancelled, static_cast<std::uint64_t>(kRounds));
  EXPECT_EQ(counts.in_flight, 0u);
}

TEST_F(CallStateTest, DeathAndAnswerRaceToOneOutcome) {
  start({});
  for (int i = 0; i < 100; ++i) {
    connect();
    std::atomic<int> done{0};
    auto call = make("r", 1, 1, [&] { ++done; });
    ASSERT_TRUE(scheduler_->submit(call));
    SeenBatch batch = stub().next_batch();
    std::thread waiter([&] { EXPECT_TRUE(call->wait(soon())); });
    answer(batch);
    disconnect();
    waiter.join();
    EXPECT_EQ(done, 1);
  }
  SchedulerCounts counts = scheduler_->counts();
  EXPECT_EQ(counts.succeeded + counts.failed, 100u);
}

TEST_F(CallStateTest, ASecondAnswerReachesNobody) {
  start({});
  connect();
  auto call = submit("r");
  SeenBatch batch = stub().next_batch();
  std::vector<std::byte> bytes(4, std::byte{1});
  std::int64_t shape[] = {4};
  protocol::TensorRecord output;
  output.name = "OUT";
  output.dtype = kUint8;
  output.shape = shape;
  output.memory.bytes = 4;
  output.inline_bytes = bytes;
  protocol::ResponseRecord response;
  response.request = batch.requests.at(0).number;
  response.outputs = std::span(&output, 1);
  protocol::Responses message;
  message.batch = batch.number;
  message.responses = std::span(&response, 1);
  ASSERT_TRUE(stub().send(message));  // not final: the stub goes on
  ASSERT_TRUE(call->wait(soon()));
  std::thread liar([&] {
    bytes.assign(4, std::byte{2});
    for (int i = 0; i < 200; ++i) EXPECT_TRUE(stub().send(message));
  });
  Response taken;
  ASSERT_TRUE(call->take(taken));
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(taken.outputs.at(0).data.bytes()[0], std::byte{1});
    std::this_thread::yield();
  }
  liar.join();
}

TEST_F(CallStateTest, AWaitEndsAtItsDeadlineAndTheCallRunsOn) {
  start({});
  auto call = submit("r");
  EXPECT_FALSE(call->wait(Clock::now() + milliseconds(10)));  // in the queue
  connect();
  SeenBatch batch = stub().next_batch();
  EXPECT_FALSE(call->wait(Clock::now() + milliseconds(10)));  // in the stub
  EXPECT_FALSE(call->done());
  answer(batch);
  expect_answered(*call);
}

TEST_F(CallStateTest, ACancelWakesTheThreadThatWaits) {
  start({});
  for (bool in_a_stub : {false, true}) {
    if (in_a_stub) connect();
    auto call = submit("r");
    std::thread waiter([&] { EXPECT_TRUE(call->wait(soon())); });
    if (in_a_stub) (void)stub().next_batch();
    std::this_thread::sleep_for(milliseconds(20));
    call->cancel(ErrorCode::Cancelled, "enough");
    waiter.join();
    EXPECT_EQ(outcome(*call), ErrorCode::Cancelled);
  }
}

TEST_F(CallStateTest, RequestsThatAStubIsAtCanBeFailedWhileItRunsOn) {
  start({});
  connect();
  auto call = submit("r");
  SeenBatch batch = stub().next_batch();
  std::thread waiter([&] { EXPECT_TRUE(call->wait(soon())); });
  instances_[0].link->fail_requests({ErrorCode::Closed, "gave up", {}});
  waiter.join();
  EXPECT_EQ(outcome(*call), ErrorCode::Closed);
  answer(batch);  // reaches nobody and breaks nothing
  auto next = submit("s");
  answer(stub().next_batch());
  expect_answered(*next);
}

using CallStateDeathTest = CallStateTest;

TEST_F(CallStateDeathTest, TwoThreadsMayNotWaitForOneCall) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  start({});
  EXPECT_DEATH(
      {
        auto call = submit("r");
        std::thread first([&] { (void)call->wait({}); });
        (void)call->wait({});
        first.join();
      },
      "one thread at a time waits for a call");
}

}  // namespace
}  // namespace tensorferry::server
