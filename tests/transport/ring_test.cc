#include <gtest/gtest.h>
#include <tensorferry/transport/inbox.h>
#include <tensorferry/transport/ring.h>
#include <time.h>

#include <cstring>
#include <memory>
#include <random>
#include <semaphore>
#include <thread>

#include "futex_count.h"

namespace tensorferry {
namespace {

constexpr std::size_t kCapacity = 4096;

struct Ring {
  Ring() : memory(static_cast<std::byte*>(std::aligned_alloc(4096, 8192))) {
    std::memset(memory.get(), 0, 8192);
  }
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> memory;
  protocol::RingHeader& header() { return *reinterpret_cast<protocol::RingHeader*>(memory.get()); }
};

bool put(RingWriter& writer, std::size_t bytes, unsigned char fill,
         Urgency urgency = Urgency::Lazy) {
  auto room = writer.claim(bytes);
  EXPECT_TRUE(room) << room.error().message;
  if (!room || !*room) return false;
  std::memset((*room)->data(), fill, bytes);
  writer.commit(protocol::RecordKind::User, bytes, false, urgency);
  return true;
}

TEST(Ring, RecordsComeInOrderAcrossManyTurns) {
  Ring ring;
  RingWriter writer(ring.memory.get(), kCapacity);
  RingReader reader(ring.memory.get(), kCapacity);
  for (int i = 0; i < 1000; ++i) {
    std::size_t bytes = static_cast<std::size_t>(i * 7 % 900);
    ASSERT_TRUE(put(writer, bytes, static_cast<unsigned char>(i)));
    auto record = reader.peek();
    ASSERT_TRUE(record && *record);
    ASSERT_EQ((*record)->body.size(), bytes);
    if (bytes) {
      ASSERT_EQ((*record)->body[bytes - 1], static_cast<std::byte>(i));
    }
    reader.consume();
  }
  EXPECT_FALSE(reader.ready());
}

TEST(Ring, AFullRingIsNoErrorAndAnAbortedClaimIsNothing) {
  Ring ring;
  RingWriter writer(ring.memory.get(), kCapacity);
  RingReader reader(ring.memory.get(), kCapacity);
  ASSERT_TRUE(*writer.claim(100));
  writer.abort();
  EXPECT_FALSE(reader.ready());
  int count = 0;
  while (put(writer, 500, 1)) ++count;
  EXPECT_GE(count, 7);
  ASSERT_TRUE(*reader.peek());
  reader.consume();
  EXPECT_TRUE(put(writer, 400, 2));
}

TEST(Ring, AnOverwrittenHeaderIsAnErrorForEitherSide) {
  for (std::uint64_t lie :
       {std::uint64_t{1}, std::uint64_t{4104}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    Ring ring;
    RingReader reader(ring.memory.get(), kCapacity);
    ring.header().tail.store(lie);
    auto record = reader.peek();
    ASSERT_FALSE(record) << lie;
    EXPECT_EQ(record.error().code, ErrorCode::Protocol);
  }
  Ring ring;
  RingWriter writer(ring.memory.get(), kCapacity);
  while (put(writer, 900, 1)) {
  }
  ring.header().head.store(123'456'789);
  EXPECT_FALSE(writer.claim(900));
}

TEST(Ring, ALengthThatLiesIsAnError) {
  Ring ring;
  RingWriter writer(ring.memory.get(), kCapacity);
  RingReader reader(ring.memory.get(), kCapacity);
  ASSERT_TRUE(put(writer, 16, 1));
  std::uint32_t length = 0xFFFF'FFF0;
  std::memcpy(ring.memory.get() + protocol::kRingDataAt, &length, sizeof length);
  EXPECT_FALSE(reader.peek());
}

TEST(Ring, AStreamBetweenTwoThreadsLosesNothing) {
  Ring ring;
  constexpr int kRecords = 100'000;
  std::thread producer([&] {
    RingWriter writer(ring.memory.get(), kCapacity);
    for (int i = 0; i < kRecords;) {
      if (put(writer, sizeof i, 0)) {
        ++i;
      } else {
        writer.wait_for_room(sizeof i, Clock::now() + std::chrono::seconds(10));
      }
    }
  });
  RingReader reader(ring.memory.get(), kCapacity);
  for (int got = 0; got < kRecords;) {
    auto record = reader.peek();
    ASSERT_TRUE(record);
    if (!*record) {
      reader.wait(Clock::now() + std::chrono::seconds(10));
      continue;
    }
    reader.consume();
    ++got;
  }
  producer.join();
}

// ------------------------------------------------------------------ a sender's system calls
TEST(Ring, ASenderMakesNoSystemCallWhileItsPeerIsAwake) {
  Ring ring;
  constexpr int kRecords = 1000;
  std::thread peer([&] {
    RingReader reader(ring.memory.get(), kCapacity);
    for (int got = 0; got < kRecords;) {
      if (auto record = reader.peek().value(); !record) continue;
      reader.consume();
      ++got;
    }
  });
  RingWriter writer(ring.memory.get(), kCapacity);
  const std::size_t before = futex_calls();
  for (int i = 0; i < kRecords;) {
    if (put(writer, 8, 1, Urgency::Urgent)) {
      ++i;
    } else {
      std::this_thread::yield();
    }
  }
  EXPECT_EQ(futex_calls() - before, 0u);
  peer.join();
}

TEST(Ring, ASenderWakesASleepingPeerByOneSystemCall) {
  Ring ring;
  std::binary_semaphore go_on(0);
  std::thread peer([&] {
    RingReader reader(ring.memory.get(), kCapacity);
    while (!reader.ready()) reader.wait({});
    go_on.acquire();  // awake, and not asking the ring for anything
  });
  while (ring.header().sleeper.load() != protocol::Sleeper::Foreground) std::this_thread::yield();
  RingWriter writer(ring.memory.get(), kCapacity);
  const std::size_t before = futex_calls();
  ASSERT_TRUE(put(writer, 8, 1));
  EXPECT_EQ(futex_calls() - before, 1u);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(put(writer, 8, 1, Urgency::Urgent));
  EXPECT_EQ(futex_calls() - before, 1u) << "who was woken is not woken again";
  go_on.release();
  peer.join();
}

TEST(Ring, ALazyRecordMakesNoSystemCallForABackgroundThreadAndAnUrgentOneMakesOne) {
  Ring ring;
  RingReader reader(ring.memory.get(), kCapacity);
  RingWriter writer(ring.memory.get(), kCapacity);
  ASSERT_TRUE(reader.arm_background());
  const std::size_t before = futex_calls();
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(put(writer, 8, 1, Urgency::Lazy));
  EXPECT_EQ(futex_calls() - before, 0u);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(put(writer, 8, 1, Urgency::Urgent));
  EXPECT_EQ(futex_calls() - before, 1u);
}

TEST(Ring, AReaderMakesASystemCallOnlyForAProducerThatSleeps) {
  Ring ring;
  RingReader reader(ring.memory.get(), kCapacity);
  RingWriter writer(ring.memory.get(), kCapacity);
  while (put(writer, 8, 1)) {
  }
  const std::size_t before = futex_calls();
  ASSERT_TRUE(*reader.peek());
  reader.consume();
  EXPECT_EQ(futex_calls() - before, 0u);
  ring.header().space_sleeper.store(1);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(*reader.peek());
    reader.consume();
  }
  EXPECT_EQ(futex_calls() - before, 1u);
}

// Counts what it is handed, and signals once it has seen `wanted`.
struct Counter {
  std::atomic<int> seen{0};
  int wanted = 1;
  Completion completion;
  Inbox::Handler handler() {
    return [this](const RingRecord&) -> Result<void> {
      if (++seen == wanted) completion.signal();
      return {};
    };
  }
};

TEST(Inbox, WhoeverWaitsReads) {
  Ring ring;
  Counter counter;
  counter.wanted = 3;
  Inbox inbox(ring.memory.get(), kCapacity, counter.handler());
  RingWriter writer(ring.memory.get(), kCapacity);
  std::thread sender([&] {
    for (int i = 0; i < 3; ++i) put(writer, 8, 1);
  });
  EXPECT_EQ(inbox.wait(counter.completion, Clock::now() + std::chrono::seconds(10)),
            WaitStatus::Done);
  sender.join();
}

TEST(Inbox, ADeadlineEndsTheWait) {
  Ring ring;
  Counter counter;
  Inbox inbox(ring.memory.get(), kCapacity, counter.handler());
  EXPECT_EQ(inbox.wait(counter.completion, Clock::now() + std::chrono::milliseconds(5)),
            WaitStatus::TimedOut);
}

TEST(Inbox, TheBackgroundThreadIsWokenByUrgentRecordsOnly) {
  Ring ring;
  Counter counter;
  Inbox inbox(ring.memory.get(), kCapacity, counter.handler());
  std::thread background([&] { inbox.serve_background(); });
  while (ring.header().sleeper.load() != protocol::Sleeper::Background) std::this_thread::yield();
  RingWriter writer(ring.memory.get(), kCapacity);
  ASSERT_TRUE(put(writer, 8, 1, Urgency::Lazy));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(counter.seen, 0);
  ASSERT_TRUE(put(writer, 8, 1, Urgency::Urgent));
  while (counter.seen != 2) std::this_thread::yield();
  inbox.stop({ErrorCode::Closed, "over", {}});
  background.join();
}

TEST(Inbox, ManyWaitersAllGetTheirs) {
  Ring ring;
  constexpr int kWaiters = 8, kEach = 300;
  std::vector<std::unique_ptr<Completion>> completions;
  for (int i = 0; i < kWaiters; ++i) completions.push_back(std::make_unique<Completion>());
  Inbox inbox(ring.memory.get(), kCapacity, [&](const RingRecord& record) -> Result<void> {
    completions[static_cast<std::size_t>(record.body[0])]->signal();
    return {};
  });
  std::mutex send;
  RingWriter writer(ring.memory.get(), kCapacity);
  std::vector<std::thread> waiters;
  std::atomic<int> done{0};
  for (int i = 0; i < kWaiters; ++i) {
    waiters.emplace_back([&, i] {
      for (int round = 0; round < kEach; ++round) {
        completions[static_cast<std::size_t>(i)]->reset();
        {
          std::scoped_lock lock(send);
          put(writer, 8, static_cast<unsigned char>(i), Urgency::Urgent);
        }
        if (inbox.wait(*completions[static_cast<std::size_t>(i)],
                       Clock::now() + std::chrono::seconds(20)) == WaitStatus::Done) {
          ++done;
        }
      }
    });
  }
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(done, kWaiters * kEach);
}

TEST(Inbox, StoppingFailsWhoWaits) {
  Ring ring;
  Counter counter;
  Inbox inbox(ring.memory.get(), kCapacity, counter.handler());
  std::thread stopper([&] { inbox.stop({ErrorCode::StubDied, "it died", {}}); });
  EXPECT_EQ(inbox.wait(counter.completion, {}), WaitStatus::Failed);
  stopper.join();
  EXPECT_EQ(inbox.error().message, "it died");
}

TEST(Inbox, AnIdleWaiterUsesNoCpu) {
  Ring ring;
  Counter counter;
  Inbox inbox(ring.memory.get(), kCapacity, counter.handler());
  timespec before{}, after{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  inbox.wait(counter.completion, Clock::now() + std::chrono::milliseconds(500));
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  auto used = (after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec;
  EXPECT_LT(used, 5'000'000) << "of half a second";
}

}  // namespace
}  // namespace tensorferry
