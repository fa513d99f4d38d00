// A Scheduler whose stubs the test plays.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "no_gpus.h"
#include "stub_peer.h"

namespace tensorferry::server {

class SchedulerTest : public testing::Test {
 protected:
  static constexpr std::size_t kRing = 64 << 10;
  static Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

  void TearDown() override {
    for (auto& instance : instances_) end(instance, {ErrorCode::StubDied, "the test is over", {}});
    if (scheduler_) {
      scheduler_->fail_queued({ErrorCode::Closed, "the test is over", {}});
      EXPECT_TRUE(scheduler_->drain(soon())) << "every request has ended";
      scheduler_->stop();
    }
    instances_.clear();
    EXPECT_EQ(host_->arena().bytes_in_use(), 0u);
  }

  void start(SchedulerOptions options, std::size_t instances = 1) {
    options.model = "m";
    scheduler_ = std::make_shared<Scheduler>(std::move(options), instances);
    instances_.resize(instances);
  }

  // Gives an instance a stub; the one that it had must have ended.
  void connect(std::size_t index = 0) {
    auto sockets = ControlSocket::pair().value();
    LinkOptions options;
    options.model = "m";
    options.instance = "m_0_" + std::to_string(index);
    options.index = index;
    options.ring_capacity = kRing;
    auto link = StubLink::open(options, std::make_shared<ControlSocket>(std::move(sockets.first)),
                               segments_, {host_, no_gpus(segments_)}, *scheduler_, null_logger());
    ASSERT_TRUE(link) << link.error().message;
    instances_[index].link = *link;
    instances_[index].stub =
        std::make_unique<StubPeer>(std::make_shared<ControlSocket>(std::move(sockets.second)));
    instances_[index].stub->shake_hands();
    scheduler_->set_link(index, instances_[index].link);
  }

  // As a supervisor does when the stub has died.
  void disconnect(std::size_t index = 0) {
    end(instances_[index], {ErrorCode::StubDied, "was killed by signal 9 (SIGKILL)", {}});
    scheduler_->set_link(index, nullptr);
  }

  // A request with some small inputs.
  std::shared_ptr<CallState> make(const std::string& id, std::int64_t batch = 1,
                                  std::size_t inputs = 1, std::function<void()> on_done = {},
                                  const Deadline& deadline = {}) {
    Request request;
    request.id = id;
    for (std::size_t i = 0; i < inputs; ++i) {
      Tensor& input = request.add_input();
      input.name = "IN";
      input.dtype = kUint8;
      input.shape = {inputs == 1 ? 4 : 4000};
      input.data = Buffer::ordinary(static_cast<std::size_t>(input.shape[0]));
    }
    auto call = std::make_shared<CallState>();
    call->prepare(scheduler_, std::move(request), std::move(on_done), deadline);
    call->set_batch_size(batch);
    return call;
  }
  std::shared_ptr<CallState> submit(const std::string& id, std::int64_t batch = 1) {
    auto call = make(id, batch);
    auto queued = scheduler_->submit(call);
    EXPECT_TRUE(queued) << queued.error().message;
    return call;
  }

  StubPeer& stub(std::size_t index = 0) { return *instances_[index].stub; }
  std::size_t queued() const { return scheduler_->counts().queued; }

  using Ids = std::vector<std::string>;
  static Ids ids(const SeenBatch& batch) {
    Ids result;
    for (const SeenRequest& request : batch.requests) result.push_back(request.id);
    return result;
  }

  // Ends the batch with an empty answer to each request.
  void answer(const SeenBatch& batch, std::size_t index = 0) {
    std::vector<protocol::ResponseRecord> responses;
    for (const SeenRequest& request : batch.requests) {
      responses.emplace_back().request = request.number;
      responses.back().flags = protocol::kResponseFinal;
    }
    protocol::Responses message;
    message.batch = batch.number;
    message.batch_done = true;
    message.responses = responses;
    ASSERT_TRUE(stub(index).send(message));
  }

  static ErrorCode outcome(CallState& call) {
    EXPECT_TRUE(call.wait(soon()));
    Response response;
    auto taken = call.take(response);
    return taken ? ErrorCode::Unknown : taken.error().code;
  }
  static void expect_answered(CallState& call) {
    ASSERT_TRUE(call.wait(soon()));
    Response response;
    auto taken = call.take(response);
    EXPECT_TRUE(taken) << taken.error().message;
  }

  struct Instance {
    std::shared_ptr<StubLink> link;
    std::unique_ptr<StubPeer> stub;
  };
  static void end(Instance& instance, const Error& why) {
    if (instance.link) instance.link->close(why);
    instance = {};
  }

  std::shared_ptr<SegmentAuthority> segments_ = std::make_shared<SegmentAuthority>();
  std::shared_ptr<HostArena> host_ =
      std::make_shared<HostArena>(segments_, ArenaOptions{4096, 4096, 16 << 10, 0});
  std::shared_ptr<Scheduler> scheduler_;
  std::vector<Instance> instances_;
};

}  // namespace tensorferry::server
