#include <gtest/gtest.h>
#include <tensorferry/transport/inbox.h>
#include <tensorferry/transport/segment.h>

#include <atomic>
#include <latch>
#include <thread>

namespace tensorferry {
namespace {

constexpr std::size_t kCapacity = 4096;

Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

class InboxTest : public testing::Test {
 protected:
  void send_one() {
    ASSERT_TRUE(writer.claim(8).value());
    writer.commit(protocol::RecordKind::User, 8, false, Urgency::Lazy);
  }

  std::shared_ptr<Segment> memory = Segment::create(0, ring_bytes(kCapacity)).value();
  RingWriter writer{memory->data(), kCapacity};
};

TEST_F(InboxTest, SettlingReadsWhatIsThere) {
  int handled = 0;
  Inbox inbox(memory->data(), kCapacity,
              [&](const RingRecord&) { return ++handled, Result<void>(); });
  for (int i = 0; i < 3; ++i) send_one();
  inbox.settle(Clock::now());
  EXPECT_EQ(handled, 3);
}

TEST_F(InboxTest, SettlingWaitsForTheThreadThatReadsUntilTheDeadline) {
  std::latch begun(1), go_on(1);
  std::atomic<bool> handled{false};
  Inbox inbox(memory->data(), kCapacity, [&](const RingRecord&) {
    begun.count_down();
    go_on.wait();
    handled = true;
    return Result<void>();
  });
  send_one();
  std::thread leader([&] { EXPECT_TRUE(inbox.poll()); });
  begun.wait();
  inbox.settle(Clock::now() + std::chrono::milliseconds(1));
  EXPECT_FALSE(handled) << "the deadline ended it";
  std::thread release([&] { go_on.count_down(); });
  inbox.settle(soon());
  EXPECT_TRUE(handled);
  release.join();
  leader.join();
}

TEST_F(InboxTest, SettlingEndsWithTheInbox) {
  Inbox inbox(memory->data(), kCapacity, [](const RingRecord&) { return Result<void>(); });
  inbox.stop({ErrorCode::Closed, "over", {}});
  send_one();
  inbox.settle(soon());
  EXPECT_TRUE(inbox.stopped());
}

}  // namespace
}  // namespace tensorferry
