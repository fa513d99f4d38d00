// Which requests go to which instance, and when.
#include <gmock/gmock.h>

#include "scheduler_fixture.h"

namespace tensorferry::server {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using testing::HasSubstr;

TEST_F(SchedulerTest, RequestsRunInOrderWithOneThatWaitsInTheStub) {
  start({});
  connect();
  std::vector<std::shared_ptr<CallState>> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(submit("r" + std::to_string(i)));
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(queued(), i < 3 ? 3u - static_cast<std::size_t>(i) : 0u)
        << "one runs, one waits in the ring, the others here";
    SeenBatch batch = stub().next_batch();
    EXPECT_EQ(ids(batch), Ids{"r" + std::to_string(i)});
    answer(batch);
    expect_answered(*calls[static_cast<std::size_t>(i)]);
  }
  while (scheduler_->counts().executions < 5) std::this_thread::yield();
  SchedulerCounts counts = scheduler_->counts();
  EXPECT_EQ(counts.succeeded, 5u);
  EXPECT_EQ(counts.in_flight, 0u);
}

TEST_F(SchedulerTest, TheLeastBusyInstanceGetsTheNext) {
  start({}, 3);
  for (std::size_t i = 0; i < 3; ++i) connect(i);
  std::vector<std::shared_ptr<CallState>> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(submit("r" + std::to_string(i)));
  EXPECT_EQ(ids(stub(0).next_batch()), Ids{"r0"});
  SeenBatch second = stub(1).next_batch();
  EXPECT_EQ(ids(second), Ids{"r1"});
  EXPECT_EQ(ids(stub(2).next_batch()), Ids{"r2"});
  EXPECT_EQ(ids(stub(0).next_batch()), Ids{"r3"});
  answer(second, 1);
  expect_answered(*calls[1]);
  submit("r4");
  EXPECT_EQ(ids(stub(1).next_batch()), Ids{"r4"});
}

TEST_F(SchedulerTest, WithoutAStubRequestsWaitForOne) {
  start({});
  auto call = submit("early");
  EXPECT_FALSE(call->wait(Clock::now() + milliseconds(20)));
  connect();
  answer(stub().next_batch());
  expect_answered(*call);
}

TEST_F(SchedulerTest, OneWhoseInputsAreOnTheirWayIsQueuedWhenTheyAreThere) {
  start({});
  connect();
  auto late = make("late");
  ASSERT_TRUE(scheduler_->admit(late));
  EXPECT_EQ(scheduler_->counts().in_flight, 1u);
  auto other = submit("other");
  SeenBatch first = stub().next_batch();
  EXPECT_EQ(ids(first), Ids{"other"});
  scheduler_->queue(late, {});
  SeenBatch second = stub().next_batch();
  EXPECT_EQ(ids(second), Ids{"late"});
  answer(first);
  answer(second);
  expect_answered(*other);
  expect_answered(*late);
}

TEST_F(SchedulerTest, OneThatIsCancelledOnItsWayIsNotQueued) {
  start({});
  connect();
  auto late = make("late", 1, 1, {}, Clock::now() + milliseconds(5));
  ASSERT_TRUE(scheduler_->admit(late));
  EXPECT_EQ(outcome(*late), ErrorCode::DeadlineExceeded);
  scheduler_->queue(late, {});
  EXPECT_EQ(queued(), 0u);
  EXPECT_TRUE(scheduler_->drain(soon()));
}

TEST_F(SchedulerTest, OneWhoseInputsDoNotArriveFails) {
  start({});
  auto late = make("late");
  ASSERT_TRUE(scheduler_->admit(late));
  scheduler_->queue(late, failure(ErrorCode::System, "the device is gone"));
  EXPECT_EQ(outcome(*late), ErrorCode::System);
  EXPECT_TRUE(scheduler_->drain(soon()));
}

TEST_F(SchedulerTest, OneOnItsWayHasItsPlaceInTheQueue) {
  SchedulerOptions options;
  options.max_queue = 1;
  start(options);
  auto late = make("late");
  ASSERT_TRUE(scheduler_->admit(late));
  for (auto& refused : {scheduler_->submit(make("more")), scheduler_->admit(make("more"))}) {
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::QueueFull);
  }
  scheduler_->queue(late, {});
  EXPECT_EQ(queued(), 1u);
  connect();
  answer(stub().next_batch());
  expect_answered(*late);
}

TEST_F(SchedulerTest, OneThatIsLateForTheEndFailsWithTheReason) {
  start({});
  auto late = make("late");
  ASSERT_TRUE(scheduler_->admit(late));
  EXPECT_FALSE(scheduler_->drain(Clock::now() + milliseconds(5))) << "it is inside";
  scheduler_->close({ErrorCode::Closed, "model 'm' was unloaded", {}});
  EXPECT_FALSE(scheduler_->admit(make("later")));
  scheduler_->stop();
  scheduler_->queue(late, {});
  EXPECT_EQ(outcome(*late), ErrorCode::Closed);
}

SchedulerOptions batching(std::int64_t most, std::vector<std::int64_t> preferred,
                          std::chrono::microseconds delay) {
  SchedulerOptions options;
  options.dynamic_batching = true;
  options.max_batch_size = most;
  options.preferred_batch_sizes = std::move(preferred);
  options.max_queue_delay = delay;
  options.depth = 1;
  return options;
}

TEST_F(SchedulerTest, AFullBatchIsNotDelayed) {
  start(batching(3, {}, hours(1)));
  connect();
  submit("a");
  submit("b");
  EXPECT_EQ(queued(), 2u);
  submit("c");
  EXPECT_EQ(ids(stub().next_batch()), (Ids{"a", "b", "c"}));
}

TEST_F(SchedulerTest, APreferredSizeIsNotDelayedAndTheLargestIsTaken) {
  start(batching(8, {2, 4}, hours(1)));
  for (int i = 0; i < 5; ++i) submit("r" + std::to_string(i));
  connect();
  SeenBatch batch = stub().next_batch();
  EXPECT_EQ(ids(batch), (Ids{"r0", "r1", "r2", "r3"}));
  answer(batch);
  EXPECT_EQ(queued(), 1u);
  submit("r5");
  EXPECT_EQ(ids(stub().next_batch()), (Ids{"r4", "r5"}));
}

TEST_F(SchedulerTest, AfterItsDelayABatchGoesAsItIs) {
  start(batching(8, {8}, milliseconds(50)));
  connect();
  auto begin = std::chrono::steady_clock::now();
  auto first = submit("a");
  auto second = submit("b");
  SeenBatch batch = stub().next_batch();
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(50));
  EXPECT_EQ(ids(batch), (Ids{"a", "b"}));
  answer(batch);
  expect_answered(*first);
  expect_answered(*second);
}

TEST_F(SchedulerTest, WithoutADelayWhatWaitsGoesTogether) {
  start(batching(8, {}, milliseconds(0)));
  connect();
  submit("a");
  submit("b");
  submit("c");
  SeenBatch first = stub().next_batch();
  EXPECT_EQ(ids(first), Ids{"a"});
  answer(first);
  EXPECT_EQ(ids(stub().next_batch()), (Ids{"b", "c"}));
}

TEST_F(SchedulerTest, ABatchNeverExceedsItsMaximumWhateverTheRequestsBring) {
  const std::vector<std::int64_t> sizes{3, 3, 3, 8, 1, 7, 2, 2, 2, 2, 1};
  start(batching(8, {}, milliseconds(0)));
  for (std::size_t i = 0; i < sizes.size(); ++i) submit(std::to_string(i), sizes[i]);
  connect();
  for (const Ids& expected :
       {Ids{"0", "1"}, Ids{"2"}, Ids{"3"}, Ids{"4", "5"}, Ids{"6", "7", "8", "9"}, Ids{"10"}}) {
    SeenBatch batch = stub().next_batch();
    EXPECT_EQ(ids(batch), expected);
    answer(batch);
  }
}

TEST_F(SchedulerTest, ABatchThatTheNextRequestDoesNotFitIsNotDelayed) {
  start(batching(8, {}, hours(1)));
  connect();
  submit("a", 5);
  EXPECT_EQ(queued(), 1u);
  submit("b", 5);
  EXPECT_EQ(ids(stub().next_batch()), Ids{"a"});
}

TEST_F(SchedulerTest, BeyondItsLimitTheQueueRefuses) {
  SchedulerOptions options;
  options.max_queue = 2;
  start(options);
  submit("a");
  submit("b");
  auto third = make("c");
  auto refused = scheduler_->submit(third);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::QueueFull);
  EXPECT_THAT(refused.error().message, HasSubstr("(2 requests)"));
  EXPECT_EQ(refused.error().context.request_id, "c");
  EXPECT_EQ(scheduler_->counts().in_flight, 2u);
  connect();
  EXPECT_TRUE(scheduler_->submit(third)) << "both went to the stub, so that there is room";
}

TEST_F(SchedulerTest, WhatIsCancelledInTheQueueNeverReachesAStub) {
  start({});
  auto first = submit("a");
  auto second = submit("b");
  first->cancel(ErrorCode::Cancelled, "changed my mind");
  EXPECT_EQ(outcome(*first), ErrorCode::Cancelled);
  EXPECT_EQ(queued(), 1u);
  connect();
  EXPECT_EQ(ids(stub().next_batch()), Ids{"b"});
  EXPECT_EQ(scheduler_->counts().cancelled, 1u);
}

TEST_F(SchedulerTest, ARunningOneThatIsCancelledEndsAtOnceAndTheStubIsTold) {
  start({});
  connect();
  auto call = submit("a");
  SeenBatch batch = stub().next_batch();
  call->cancel(ErrorCode::DeadlineExceeded, "too late");
  EXPECT_EQ(outcome(*call), ErrorCode::DeadlineExceeded);
  Completion never;
  while (stub().cancelled.empty())
    (void)stub().channel().inbox().wait(never, Clock::now() + milliseconds(1));
  EXPECT_EQ(stub().cancelled.at(0), batch.requests.at(0).number);
  answer(batch);  // reaches nobody
  auto next = submit("b");
  answer(stub().next_batch());
  expect_answered(*next);
}

// By the scheduler's thread: nothing here waits for the call itself.
TEST_F(SchedulerTest, WhatHasADeadlineEndsThenThoughNobodyWaitsForIt) {
  start({});
  connect();
  auto late = [&](const std::string& id, milliseconds after) {
    auto call = make(id, 1, 1, {}, Clock::now() + after);
    EXPECT_TRUE(scheduler_->submit(call));
    return call;
  };
  auto patient = late("patient", hours(1));
  auto running = late("running", milliseconds(20));
  auto queued_too = late("queued", milliseconds(10));
  while (!running->done() || !queued_too->done()) std::this_thread::yield();
  EXPECT_EQ(outcome(*running), ErrorCode::DeadlineExceeded);
  EXPECT_EQ(outcome(*queued_too), ErrorCode::DeadlineExceeded);
  // One more, after the thread has gone back to sleep.
  auto again = late("again", milliseconds(1));
  while (!again->done()) std::this_thread::yield();
  EXPECT_EQ(scheduler_->counts().cancelled, 3u);
  EXPECT_FALSE(patient->done());
  SeenBatch batch = stub().next_batch();
  EXPECT_EQ(ids(batch), Ids{"patient"});
  answer(batch);
  expect_answered(*patient);
}

TEST_F(SchedulerTest, WhatWasAnsweredInTimeIsNotKeptUntilItsDeadline) {
  start({});
  connect();
  auto call = make("a", 1, 1, {}, Clock::now() + hours(1));
  ASSERT_TRUE(scheduler_->submit(call));
  answer(stub().next_batch());
  expect_answered(*call);
  while (call.use_count() > 1) std::this_thread::yield();  // the reader lets go of it
}

TEST_F(SchedulerTest, AClosedOneRefusesAndDrainsWithinItsLimit) {
  start({});
  connect();
  auto call = submit("a");
  SeenBatch batch = stub().next_batch();
  scheduler_->close({ErrorCode::Closed, "model 'm' was unloaded", {}});
  auto refused = scheduler_->submit(make("b"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Closed);
  EXPECT_FALSE(scheduler_->drain(Clock::now() + milliseconds(20)));
  answer(batch);
  EXPECT_TRUE(scheduler_->drain(soon()));
  expect_answered(*call);
}

TEST_F(SchedulerTest, WhatADeadStubHadNotBegunRunsOnTheNextInItsOrder) {
  start({});
  connect();
  std::vector<std::shared_ptr<CallState>> calls;
  for (const char* id : {"a", "b", "c", "d"}) calls.push_back(submit(id));
  EXPECT_EQ(ids(stub().next_batch()), Ids{"a"});
  disconnect();
  EXPECT_EQ(outcome(*calls[0]), ErrorCode::StubDied);
  EXPECT_EQ(queued(), 3u);
  connect();
  for (std::size_t i = 1; i < 4; ++i) {
    SeenBatch batch = stub().next_batch();
    EXPECT_EQ(ids(batch), Ids{std::string(1, static_cast<char>('a' + i))});
    answer(batch);
    expect_answered(*calls[i]);
  }
}

TEST_F(SchedulerTest, ABatchOfADeadStubGoesBackInItsOrder) {
  SchedulerOptions options = batching(4, {}, milliseconds(0));
  options.depth = 2;
  start(options);
  connect();
  submit("first");
  // Numbers of slots come back in another order than they went.
  for (const char* id : {"a", "b", "c", "d"}) submit(id);
  SeenBatch one = stub().next_batch();
  answer(one);
  (void)stub().next_batch();
  while (scheduler_->counts().executions == 0) std::this_thread::yield();
  disconnect();
  std::vector<std::string> waiting;
  connect();
  while (queued() > 0 || waiting.empty()) {
    SeenBatch batch = stub().next_batch();
    for (const auto& id : ids(batch)) waiting.push_back(id);
    answer(batch);
  }
  EXPECT_TRUE(std::ranges::is_sorted(waiting)) << testing::PrintToString(waiting);
}

TEST_F(SchedulerTest, AnAnswerThatADeadStubLeftInItsRingArrives) {
  start({});
  connect();
  auto first = submit("a");
  auto second = submit("b");
  SeenBatch batch = stub().next_batch();
  // As long as somebody else reads, nobody but close() sees the answer.
  answer(batch);
  disconnect();
  expect_answered(*first);
  EXPECT_EQ(outcome(*second), ErrorCode::StubDied) << "it may have been begun: it is not run twice";
}

TEST_F(SchedulerTest, ABatchThatCannotBeSentFailsAloneAndTheInstanceServesOn) {
  start({});
  connect();
  auto huge = make("huge", 1, 20);  // 80 kB of small tensors: more than ring and arena take
  ASSERT_TRUE(scheduler_->submit(huge));
  EXPECT_EQ(outcome(*huge), ErrorCode::OutOfSharedMemory);
  for (int i = 0; i < 3; ++i) {
    auto next = submit("next");
    answer(stub().next_batch());
    expect_answered(*next);
  }
  EXPECT_EQ(scheduler_->counts().failed, 1u);
  EXPECT_FALSE(instances_[0].link->broken());
}

}  // namespace
}  // namespace tensorferry::server
