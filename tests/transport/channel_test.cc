#include <gmock/gmock.h>
#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/lease_book.h>
#include <time.h>

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>

namespace tensorferry {
namespace {

using protocol::UserMessage;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::size_t kCapacity = 8192;

Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

// A side as a thread peer sees it: both share one mapping of the ring and of the arenas.
struct Peer {
  Peer(std::shared_ptr<Segment> ring, Side side, SegmentMap& all)
      : arena({.initial_bytes = 1 << 20, .max_bytes = 8 << 20},
              [&all, side, next = SegmentId{0}](std::size_t size) mutable {
                auto made = Segment::create(2 * ++next + (side == Side::Server ? 0 : 1), size);
                if (made) all.insert(*made);
                return made;
              }),
        book(arena) {
    Channel::Options options;
    options.ring_capacity = kCapacity;
    options.spill_arena = &arena;
    options.resolve = [&all](const protocol::MemoryRef& memory) {
      return all.resolve(memory.place, memory.offset, memory.bytes);
    };
    options.issue_lease = [this](BlockId id) {
      std::scoped_lock lock(mutex);
      return book.lend_held({id, 0, 0, 0, nullptr});
    };
    channel = std::make_unique<Channel>(std::move(ring), side, std::move(options),
                                        [this](const Received& message) { return take(message); });
  }

  Result<void> take(const Received& message) {
    std::scoped_lock lock(mutex);
    std::span<const protocol::LeaseRelease> releases;
    if (message.kind == protocol::RecordKind::Release) {
      auto release = decode_private<protocol::Release>(message.body, message.scratch);
      if (!release) return std::unexpected(release.error());
      releases = release->releases;
    } else {
      auto user = decode_private<UserMessage>(message.body, message.scratch);
      if (!user) return std::unexpected(user.error());
      tags.push_back(user->tag);
      for (const auto& tensor : user->tensors) {
        bytes += tensor.inline_bytes.size();
        for (std::byte each : tensor.inline_bytes) sum += static_cast<unsigned>(each);
      }
      releases = user->releases;
    }
    for (const auto& release : releases)
      if (!book.release(release.lease)) return failure(ErrorCode::Protocol, "not lent");
    if (tags.size() >= wanted) arrived.signal();
    return {};
  }

  // Reads until so many messages have come in all.
  WaitStatus wait_for(std::size_t count, const Deadline& deadline = soon()) {
    {
      std::scoped_lock lock(mutex);
      wanted = count;
      if (tags.size() >= wanted) return WaitStatus::Done;
      arrived.reset();
    }
    return channel->inbox().wait(arrived, deadline);
  }

  std::mutex mutex;
  Arena arena;
  LeaseBook book;
  std::vector<std::uint64_t> tags;
  std::size_t bytes = 0, wanted = 1;
  std::uint64_t sum = 0;
  Completion arrived;
  std::unique_ptr<Channel> channel;
};

class ChannelTest : public testing::Test {
 protected:
  std::shared_ptr<Segment> ring = Segment::create(0, channel_bytes(kCapacity)).value();
  SegmentMap segments;
  Peer server{ring, Side::Server, segments};
  Peer stub{ring, Side::Stub, segments};

  // A message whose body has about so many bytes.
  static UserMessage sized(std::uint64_t tag, std::size_t size, std::vector<std::byte>& bytes,
                           std::vector<std::int64_t>& shape, protocol::TensorRecord& tensor) {
    bytes.assign(size, std::byte{1});
    shape.assign(1, static_cast<std::int64_t>(size));
    tensor.dtype = kUint8;
    tensor.shape = shape;
    tensor.memory.bytes = size;
    tensor.inline_bytes = bytes;
    return {tag, std::span(&tensor, 1), {}};
  }
  static Result<void> send(Peer& from, std::uint64_t tag, std::size_t size,
                           const Deadline& deadline = soon()) {
    std::vector<std::byte> bytes;
    std::vector<std::int64_t> shape;
    protocol::TensorRecord tensor;
    return from.channel->send(sized(tag, size, bytes, shape, tensor), Urgency::Lazy, deadline);
  }
  // Until nothing can be written any more.
  static int fill(Peer& from) {
    int count = 0;
    while (send(from, 0, 500, Clock::now())) ++count;
    return count;
  }
};

TEST_F(ChannelTest, MessagesCrossBothWaysInOrder) {
  for (auto [from, to] : {std::pair(&server, &stub), std::pair(&stub, &server)}) {
    for (std::uint64_t tag : {1, 2, 3}) ASSERT_TRUE(send(*from, tag, 10));
    EXPECT_EQ(to->wait_for(3), WaitStatus::Done);
    EXPECT_THAT(to->tags, ElementsAre(1, 2, 3));
  }
}

TEST_F(ChannelTest, BodiesTooLargeForTheRingGoByTheArenaAndComeHome) {
  for (auto [from, to] : {std::pair(&server, &stub), std::pair(&stub, &server)}) {
    for (std::size_t size : {std::size_t{100}, kCapacity / 4, kCapacity, std::size_t{3} << 20})
      ASSERT_TRUE(send(*from, size, size));
    EXPECT_EQ(to->wait_for(4), WaitStatus::Done);
    EXPECT_EQ(to->sum, to->bytes) << "each byte was a one";
    EXPECT_EQ(to->bytes, 100 + kCapacity / 4 + kCapacity + (std::size_t{3} << 20));
    EXPECT_GT(from->arena.bytes_in_use(), std::size_t{3} << 20);
    ASSERT_TRUE(to->channel->flush_releases());
    from->channel->inbox().poll();
    EXPECT_EQ(from->arena.bytes_in_use(), 0u);
    EXPECT_EQ(from->book.size(), 0u);
  }
}

TEST_F(ChannelTest, ASpillThatFindsNoMemoryOrNoRoomHoldsNothing) {
  auto large = send(server, 1, 16 << 20);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, ErrorCode::OutOfSharedMemory);
  ASSERT_TRUE(send(server, 2, 10)) << "the room that was claimed for it is free again";
  fill(server);
  while (server.channel->send(protocol::Release{}, Urgency::Lazy, Clock::now())) {
  }
  auto full = send(server, 3, kCapacity, Clock::now());
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::DeadlineExceeded);
  EXPECT_EQ(server.arena.bytes_in_use(), 0u);
  EXPECT_EQ(server.book.size(), 0u);
}

TEST_F(ChannelTest, AMessageBeyondAllLimitsIsAnErrorThatSaysTheSizes) {
  Channel::Options options;
  options.ring_capacity = kCapacity;
  Channel no_arena(ring, Side::Server, options, [](const Received&) { return Result<void>(); });
  const std::vector<std::byte> bytes(kCapacity);
  const std::int64_t shape = kCapacity;
  protocol::TensorRecord tensor;
  tensor.dtype = kUint8;
  tensor.shape = std::span(&shape, 1);
  tensor.memory.bytes = kCapacity;
  tensor.inline_bytes = bytes;
  auto sent = no_arena.send(UserMessage{1, std::span(&tensor, 1), {}});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::Protocol);
  EXPECT_THAT(sent.error().message, HasSubstr(std::to_string(max_record_bytes(kCapacity))));
}

TEST_F(ChannelTest, AFullRingIsBackpressureUntilTheDeadline) {
  const int count = fill(server);
  EXPECT_GT(count, 5);
  const auto begin = Clock::now();
  auto sent = send(server, 9, 500, begin + std::chrono::milliseconds(30));
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(30));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::DeadlineExceeded);
  EXPECT_THAT(sent.error().message, HasSubstr("does not read"));
  std::thread sender([&] { EXPECT_TRUE(send(server, 10, 500)); });
  EXPECT_EQ(stub.wait_for(static_cast<std::size_t>(count) + 1), WaitStatus::Done);
  sender.join();
  EXPECT_EQ(stub.tags.back(), 10u);
}

// Half a second, in which it looks now and then whether the channel was closed.
TEST_F(ChannelTest, ASenderThatWaitsForRoomUsesNoCpu) {
  fill(server);
  timespec before{}, after{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  auto sent = send(server, 9, 500, Clock::now() + std::chrono::milliseconds(500));
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::DeadlineExceeded);
  auto used = (after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec;
  EXPECT_LT(used, 5'000'000) << "of half a second";
}

// What the peer changes once a message was copied out changes nothing: here between the copy and
// the check, and again before the message is used.
class ScribblingPeer : public ChannelTest {
 protected:
  void send_and_read(std::size_t size) {
    Channel::Options options;
    options.ring_capacity = kCapacity;
    options.resolve = [&](const protocol::MemoryRef& memory) {
      auto range = segments.resolve(memory.place, memory.offset, memory.bytes);
      if (range) spilled = range->bytes;
      return range;
    };
    Channel reads(ring, Side::Stub, options,
                  [&](const Received& received) { return read(received, size); });
    ASSERT_TRUE(send(server, 7, size));
    ASSERT_TRUE(reads.inbox().poll());
    EXPECT_TRUE(handled) << reads.inbox().error().message;
  }

  Result<void> read(const Received& received, std::size_t size) {
    scribble(0xFF);
    auto message = decode_private<UserMessage>(received.body, received.scratch);
    if (!message) return std::unexpected(message.error());
    scribble(0);
    EXPECT_EQ(message->tag, 7u);
    EXPECT_THAT(message->tensors[0].inline_bytes,
                testing::AllOf(testing::SizeIs(size), testing::Each(std::byte{1})));
    handled = true;
    return {};
  }

  void scribble(int with) {
    std::memset(ring->data() + protocol::kRingDataAt, with, kCapacity);
    if (!spilled.empty()) std::memset(spilled.data(), with, spilled.size());
  }

  std::span<std::byte> spilled;
  bool handled = false;
};

TEST_F(ScribblingPeer, ChangesNoMessageOfTheRing) {
  send_and_read(100);
  EXPECT_TRUE(spilled.empty());
}

TEST_F(ScribblingPeer, ChangesNoMessageThatSpilled) {
  send_and_read(kCapacity);
  EXPECT_FALSE(spilled.empty());
}

TEST_F(ChannelTest, ClosingWakesWhoSendsAndWhoWaits) {
  fill(server);
  std::thread sender([&] {
    auto sent = send(server, 1, 500, {});
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::StubDied);
    EXPECT_EQ(sent.error().message, "it died");
  });
  std::thread waiter([&] { EXPECT_EQ(server.wait_for(1, {}), WaitStatus::Failed); });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  server.channel->close({ErrorCode::StubDied, "it died", {}});
  server.channel->close({ErrorCode::Closed, "again", {}});
  sender.join();
  waiter.join();
  EXPECT_TRUE(server.channel->closed());
  EXPECT_EQ(server.channel->inbox().error().message, "it died");
}

TEST_F(ChannelTest, EndingOnlySendingLeavesWhatCameToBeRead) {
  ASSERT_TRUE(send(stub, 5, 10));
  fill(server);
  std::thread sender([&] {
    auto sent = send(server, 1, 500, {});
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().message, "nobody reads");
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  server.channel->close_sending({ErrorCode::Closed, "nobody reads", {}});
  sender.join();
  EXPECT_FALSE(send(server, 2, 10));
  EXPECT_EQ(server.wait_for(1), WaitStatus::Done);
  EXPECT_THAT(server.tags, ElementsAre(5));
}

TEST_F(ChannelTest, ReleasesGatherWithoutBlockingAndTravelTogether) {
  std::atomic<int> told{0};
  stub.channel->set_release_notify([&] { ++told; });
  std::vector<std::uint64_t> leases;
  for (int i = 0; i < 3; ++i) {
    const Block block = server.arena.allocate(4096).value();
    leases.push_back(server.book.lend_held({block.id, 0, 0, 0, nullptr}));
  }
  fill(stub);  // a full ring keeps nobody from letting go
  std::thread other([&] {
    for (std::uint64_t lease : leases) stub.channel->release_later(lease);
  });
  other.join();
  EXPECT_EQ(told, 1) << "told when the list becomes non-empty";
  ASSERT_TRUE(stub.channel->flush_releases());
  EXPECT_EQ(server.book.size(), 3u);
  server.channel->inbox().poll();
  ASSERT_TRUE(stub.channel->flush_releases());
  server.channel->inbox().poll();
  EXPECT_EQ(server.book.size(), 0u);
  EXPECT_EQ(server.arena.bytes_in_use(), 0u);
}

TEST_F(ChannelTest, MoreReleasesThanAMessageTakesGoWithTheNext) {
  for (std::uint64_t lease = 1; lease <= 5000; ++lease) stub.channel->release_later(lease);
  GivenBack some;
  stub.channel->take_releases(some);
  EXPECT_EQ(some.releases.size(), 4096u);
  EXPECT_EQ(some.releases.front().lease, 1u);
  stub.channel->take_releases(some);
  EXPECT_EQ(some.releases.size(), 904u);
  EXPECT_EQ(some.releases.back().lease, 5000u);
  stub.channel->take_releases(some);
  EXPECT_TRUE(some.empty());
}

TEST_F(ChannelTest, ReleasesCarryTheirEventsAndKeepThemWhenTheirMessageIsNotSent) {
  const protocol::EventSlot one{{DeviceKind::Cuda, 0}, 7, 1}, two{{DeviceKind::Cuda, 1}, 8, 2};
  const protocol::EventSlot both[] = {one, two};
  stub.channel->release_later(1);
  stub.channel->release_later(2, both);
  stub.channel->release_later(3, std::span(&two, 1));
  stub.channel->seen_later(one);
  GivenBack first, again;
  stub.channel->take_releases(first);
  stub.channel->keep_releases(first);
  stub.channel->take_releases(again);
  ASSERT_EQ(again.releases.size(), 3u);
  EXPECT_TRUE(again.releases[0].after.empty());
  EXPECT_EQ(again.releases[1].after.size(), 2u);
  EXPECT_EQ(again.releases[1].after[1].slot, 8u);
  EXPECT_EQ(again.releases[2].after[0].generation, 2u);
  ASSERT_EQ(again.seen.size(), 1u);
  EXPECT_EQ(again.seen[0].slot, 7u);
  stub.channel->take_releases(first);
  EXPECT_TRUE(first.empty());
}

TEST_F(ChannelTest, AnErrorOfTheHandlerEndsTheChannelWithItsReason) {
  stub.channel->release_later(77);  // never lent
  ASSERT_TRUE(stub.channel->flush_releases());
  EXPECT_EQ(server.wait_for(1), WaitStatus::Failed);
  EXPECT_EQ(server.channel->inbox().error().message, "not lent");
  EXPECT_TRUE(server.channel->closed());
}

TEST_F(ChannelTest, AnExceptionOfTheHandlerLeavesNobodyWaiting) {
  Channel::Options options;
  options.ring_capacity = kCapacity;
  Channel throws(ring, Side::Server, options,
                 [](const Received&) -> Result<void> { throw std::length_error("too long"); });
  ASSERT_TRUE(send(stub, 1, 1));
  Completion never, nor_this;
  std::thread other([&] { EXPECT_EQ(throws.inbox().wait(nor_this, {}), WaitStatus::Failed); });
  EXPECT_EQ(throws.inbox().wait(never, {}), WaitStatus::Failed);
  other.join();
  EXPECT_THAT(throws.inbox().error().message, HasSubstr("too long"));
}

TEST_F(ChannelTest, StreamsOfManyThreadsBothWaysLoseNothing) {
  constexpr std::uint64_t kThreads = 3, kEach = 300;
  auto flood = [&](Peer& from) {
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        for (std::uint64_t n = 0; n < kEach; ++n) {
          // Every now and then one that spills.
          ASSERT_TRUE(send(from, i, n % 50 == 0 ? kCapacity : n));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  std::thread background[2] = {std::thread([&] { server.channel->inbox().serve_background(); }),
                               std::thread([&] { stub.channel->inbox().serve_background(); })};
  for (Peer* peer : {&server, &stub})
    peer->channel->set_release_notify([peer] { (void)peer->channel->flush_releases(); });
  std::thread floods[2] = {std::thread([&] { flood(server); }), std::thread([&] { flood(stub); })};
  for (Peer* peer : {&server, &stub}) EXPECT_EQ(peer->wait_for(kThreads * kEach), WaitStatus::Done);
  for (std::thread& thread : floods) thread.join();
  for (Peer* peer : {&server, &stub}) EXPECT_EQ(peer->sum, peer->bytes);
  const Deadline deadline = soon();
  for (Peer* peer : {&server, &stub}) {
    Peer* other = peer == &server ? &stub : &server;
    while (peer->arena.bytes_in_use() != 0 && !passed(deadline)) {
      ASSERT_TRUE(other->channel->flush_releases());
      peer->channel->inbox().poll();
    }
    EXPECT_EQ(peer->arena.bytes_in_use(), 0u);
  }
  for (Peer* peer : {&server, &stub}) peer->channel->close({ErrorCode::Closed, "over", {}});
  for (std::thread& thread : background) thread.join();
}

}  // namespace
}  // namespace tensorferry
