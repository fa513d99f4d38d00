#include <gtest/gtest.h>
#include <sys/wait.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/endpoint.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "raw_end.h"
#include "sanitized.h"

namespace tensorferry {
namespace {

constexpr std::size_t kLarge = 1 << 20;

EndpointTensor tensor_over(SharedBytes shared) {
  EndpointTensor tensor;
  tensor.name = "T";
  tensor.dtype = kUint8;
  tensor.shape = {static_cast<std::int64_t>(shared.bytes().size())};
  tensor.shared = std::move(shared);
  return tensor;
}

std::vector<EndpointTensor> one(EndpointTensor tensor) {
  std::vector<EndpointTensor> tensors;
  tensors.push_back(std::move(tensor));
  return tensors;
}

struct Pair {
  std::unique_ptr<Endpoint> first, second;
};

Pair connected(const EndpointOptions& options = {}) {
  auto created = Endpoint::create(options);
  EXPECT_TRUE(created) << created.error().message;
  auto second = Endpoint::connect(std::move(created->second), soon());
  EXPECT_TRUE(second) << second.error().message;
  return {std::move(created->first), std::move(*second)};
}

EndpointMessage next(Endpoint& end) {
  auto message = end.receive(soon());
  EXPECT_TRUE(message) << message.error().message;
  EXPECT_TRUE(*message);
  return message && *message ? std::move(**message) : EndpointMessage{};
}

TEST(Endpoint, MovesArenaMemoryThereAndBackWithoutACopy) {
  Pair pair = connected();
  auto loan = pair.first->allocate(kLarge).value();
  std::memset(loan.bytes().data(), 7, kLarge);
  const std::byte* home = loan.bytes().data();
  CopyCounts before = copy_counts();
  ASSERT_TRUE(pair.first->send(1, one(tensor_over(std::move(loan)))));
  EndpointMessage there = next(*pair.second);
  ASSERT_EQ(there.tensors.size(), 1u);
  EXPECT_EQ(there.tag, 1u);
  EXPECT_EQ(there.tensors[0].bytes()[kLarge - 1], std::byte{7});
  there.tensors[0].shared.bytes()[0] = std::byte{8};
  ASSERT_TRUE(pair.second->send(2, std::move(there.tensors)));
  EndpointMessage back = next(*pair.first);
  EXPECT_EQ(back.tensors.at(0).bytes().data(), home);
  EXPECT_EQ(home[0], std::byte{8});
  EXPECT_EQ(copy_counts().calls_of(CopyKind::Host), before.calls_of(CopyKind::Host));
  back.tensors.clear();
  EXPECT_EQ(pair.first->statistics().bytes_in_use, 0u);
}

TEST(Endpoint, TheSecondEndHasAnArenaToo) {
  Pair pair = connected();
  auto loan = pair.second->allocate(kLarge).value();
  std::memset(loan.bytes().data(), 3, kLarge);
  ASSERT_TRUE(pair.second->send(5, one(tensor_over(std::move(loan)))));
  EndpointMessage there = next(*pair.first);
  EXPECT_EQ(there.tensors.at(0).bytes()[9], std::byte{3});
  there.tensors.clear();
  // The release is read by whoever allocates, or by the background thread if it reads just then.
  auto again = pair.second->allocate(kLarge).value();
  const Deadline deadline = soon();
  while (pair.second->statistics().blocks_in_use != 1 && !passed(deadline))
    std::this_thread::yield();
  EXPECT_EQ(pair.second->statistics().blocks_in_use, 1u);
}

TEST(Endpoint, WhatIsHeldElsewhereIsCopiedOnce) {
  Pair pair = connected();
  auto loan = pair.first->allocate(kLarge).value();
  SharedBytes kept = loan;
  CopyCounts before = copy_counts();
  ASSERT_TRUE(pair.first->send(1, one(tensor_over(std::move(loan)))));
  EXPECT_EQ(copy_counts().bytes_of(CopyKind::Host) - before.bytes_of(CopyKind::Host), kLarge);
  EndpointMessage there = next(*pair.second);
  there.tensors.at(0).shared.bytes()[0] = std::byte{99};
  EXPECT_NE(kept.bytes()[0], std::byte{99}) << "an edit never shows at another holder";
}

TEST(Endpoint, SmallAndPlainTensorsCross) {
  Pair pair = connected();
  std::vector<std::byte> plain(kLarge, std::byte{4}), small(3, std::byte{5});
  std::vector<EndpointTensor> tensors(2);
  tensors[0].name = "plain";
  tensors[0].dtype = kUint8;
  tensors[0].shape = {static_cast<std::int64_t>(kLarge)};
  tensors[0].plain = plain;
  tensors[1].name = "small";
  tensors[1].dtype = kUint8;
  tensors[1].shape = {3};
  tensors[1].plain = small;
  ASSERT_TRUE(pair.first->send(0, std::move(tensors)));
  EndpointMessage there = next(*pair.second);
  EXPECT_EQ(there.tensors.at(0).bytes()[kLarge - 1], std::byte{4});
  EXPECT_EQ(there.tensors.at(1).bytes()[2], std::byte{5});
}

TEST(Endpoint, AShapeThatDoesNotFitItsBytesIsRefused) {
  Pair pair = connected();
  auto tensor = tensor_over(pair.first->allocate(kLarge).value());
  tensor.shape = {5};
  auto sent = pair.first->send(0, one(std::move(tensor)));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::InvalidArgument);
}

TEST(Endpoint, WhatWasReceivedOutlivesThePeer) {
  Pair pair = connected();
  auto loan = pair.second->allocate(kLarge).value();
  std::memset(loan.bytes().data(), 6, kLarge);
  ASSERT_TRUE(pair.second->send(1, one(tensor_over(std::move(loan)))));
  EndpointMessage there = next(*pair.first);
  pair.second.reset();
  auto more = pair.first->receive(soon());
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::Closed);
  EXPECT_EQ(there.tensors.at(0).bytes()[kLarge - 1], std::byte{6});
}

TEST(Endpoint, AKilledPeerVoidsItsHoldsAtOnce) {
  if (emulated()) GTEST_SKIP() << kNoThreadsAfterAFork;
  auto created = Endpoint::create();
  ASSERT_TRUE(created);
  auto& [end, fd] = *created;
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto peer = Endpoint::connect(std::move(fd), soon());
    if (auto held = (*peer)->receive(soon())) {
      (void)(*peer)->send(1, {});
      ::pause();
    }
    ::_exit(0);
  }
  fd.reset();
  ASSERT_TRUE(end->send(1, one(tensor_over(end->allocate(kLarge).value()))));
  next(*end);
  EXPECT_GE(end->statistics().bytes_in_use, kLarge);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(end->receive(soon()));
  while (end->statistics().bytes_in_use != 0) std::this_thread::yield();
  SUCCEED();
}

TEST(Endpoint, ThousandsOfMessagesBothWaysLeaveNothingBehind) {
  Pair pair = connected();
  constexpr int kMessages = 2000;
  std::thread echo([&] {
    for (int i = 0; i < kMessages; ++i) {
      EndpointMessage message = next(*pair.second);
      ASSERT_TRUE(pair.second->send(message.tag, std::move(message.tensors)));
    }
  });
  for (int i = 0; i < kMessages; ++i) {
    auto loan = pair.first->allocate(8192).value();
    std::memset(loan.bytes().data(), i & 0xFF, 8192);
    ASSERT_TRUE(pair.first->send(static_cast<std::uint64_t>(i), one(tensor_over(std::move(loan)))));
    EndpointMessage back = next(*pair.first);
    ASSERT_EQ(back.tensors.at(0).bytes()[8191], static_cast<std::byte>(i & 0xFF));
  }
  echo.join();
  EXPECT_EQ(pair.first->statistics().bytes_in_use, 0u);
}

TEST(Endpoint, BothEndsMaySendAtOnceMoreThanTheirRingsHold) {
  EndpointOptions options;
  options.ring_capacity = 4096;
  Pair pair = connected(options);
  constexpr int kMessages = 500;
  const std::vector<std::byte> small(500, std::byte{1});
  auto send_all = [&](Endpoint& end) {
    for (int i = 0; i < kMessages; ++i) {
      EndpointTensor tensor;
      tensor.name = "T";
      tensor.dtype = kUint8;
      tensor.shape = {500};
      tensor.plain = small;
      ASSERT_TRUE(end.send(static_cast<std::uint64_t>(i), one(std::move(tensor)), soon()));
    }
    for (int i = 0; i < kMessages; ++i) ASSERT_EQ(next(end).tag, static_cast<std::uint64_t>(i));
  };
  std::thread other([&] { send_all(*pair.second); });
  send_all(*pair.first);
  other.join();
}

TEST(Endpoint, AMessageLargerThanTheRingCrosses) {
  EndpointOptions options;
  options.ring_capacity = 4096;
  Pair pair = connected(options);
  const std::vector<std::byte> small(1000, std::byte{9});
  std::vector<EndpointTensor> tensors(50);
  for (EndpointTensor& tensor : tensors) {
    tensor.name = "T";
    tensor.dtype = kUint8;
    tensor.shape = {1000};
    tensor.plain = small;
  }
  ASSERT_TRUE(pair.first->send(1, std::move(tensors), soon()));
  EndpointMessage there = next(*pair.second);
  ASSERT_EQ(there.tensors.size(), 50u);
  EXPECT_EQ(there.tensors[49].bytes()[999], std::byte{9});
  // The spilled body comes home when the other end waits.
  EXPECT_FALSE(pair.second->receive(Clock::now()).value());
  const Deadline deadline = soon();
  while (pair.first->statistics().bytes_in_use != 0 && !passed(deadline))
    (void)pair.first->receive(Clock::now());
  EXPECT_EQ(pair.first->statistics().bytes_in_use, 0u);
}

// A peer that doesn't read, so that the ring stays full.
struct Stuck {
  Stuck() {
    EndpointOptions options;
    options.ring_capacity = 4096;
    auto created = Endpoint::create(options).value();
    end = std::move(created.first);
    peer.emplace(std::move(created.second));
    while (end->send(0, {}, Clock::now())) ++sent;
  }
  void read_all() {
    for (; sent > 0; --sent) peer->hear();
  }
  std::unique_ptr<Endpoint> end;
  std::optional<RawEnd> peer;
  int sent = 0;
};

TEST(Endpoint, ASendThatFailsLosesNothing) {
  Stuck stuck;
  std::vector<EndpointTensor> tensors = one(tensor_over(stuck.end->allocate(kLarge).value()));
  std::vector<std::byte> plain(kLarge, std::byte{4});
  tensors.emplace_back(tensors[0]).shared = {};
  tensors[1].plain = plain;
  const std::byte* home = tensors[0].bytes().data();
  auto sent = stuck.end->send(1, tensors, Clock::now() + std::chrono::milliseconds(5));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::DeadlineExceeded);
  EXPECT_EQ(tensors[0].bytes().data(), home);
  ASSERT_TRUE(tensors[1].shared) << "the copy that was made is kept";
  stuck.read_all();
  CopyCounts before = copy_counts();
  ASSERT_TRUE(stuck.end->send(2, tensors, soon()));
  EXPECT_EQ(copy_counts().calls_of(CopyKind::Host), before.calls_of(CopyKind::Host));
  EXPECT_FALSE(tensors[0].shared);
  auto message = stuck.peer->hear();
  ASSERT_EQ(message.tag, 2u);
  protocol::LeaseRelease releases[2] = {{message.tensors[0].memory.lease, {}},
                                        {message.tensors[1].memory.lease, {}}};
  stuck.peer->say(protocol::UserMessage{3, {}, releases});
  next(*stuck.end);
  EXPECT_EQ(stuck.end->statistics().bytes_in_use, 0u) << "no lease of the failed message is left";
}

TEST(Endpoint, AHandedBackRangeIsStillHeldAfterASendThatFailed) {
  Stuck stuck;
  static constexpr std::int64_t kShape[1] = {8192};
  auto segment = stuck.peer->ask(8192);
  auto tensor = tensor_in(segment->id(), 0, kShape, 41);
  stuck.peer->say(protocol::UserMessage{1, std::span(&tensor, 1), {}});
  EndpointMessage held = next(*stuck.end);
  auto sent = stuck.end->send(1, held.tensors, Clock::now());
  ASSERT_FALSE(sent);
  ASSERT_TRUE(held.tensors[0].shared);
  stuck.read_all();
  ASSERT_TRUE(stuck.end->send(2, held.tensors, soon()));
  auto home = stuck.peer->hear();
  ASSERT_EQ(home.releases.size(), 1u);
  EXPECT_EQ(home.releases[0].lease, 41u);
  EXPECT_EQ(home.tensors[0].memory.lease, 41u);
}

TEST(Endpoint, WhoWaitsForRoomIsToldThatThePeerHasGone) {
  Stuck stuck;
  std::thread closer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stuck.peer.reset();
  });
  auto sent = stuck.end->send(1, {});  // no deadline
  closer.join();
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::Closed);
}

TEST(Endpoint, MemoryThatAClosedEndStillShowsIsNotHandedOutAgain) {
  Pair pair = connected();
  auto loan = pair.first->allocate(kLarge).value();
  std::memset(loan.bytes().data(), 5, kLarge);
  ASSERT_TRUE(pair.first->send(1, one(tensor_over(std::move(loan)))));
  EndpointMessage there = next(*pair.second);
  pair.second->close();
  ASSERT_FALSE(pair.first->receive(soon()));
  auto more = pair.first->allocate(kLarge);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::Closed);
  EXPECT_EQ(there.tensors.at(0).bytes()[kLarge - 1], std::byte{5});
}

TEST(Endpoint, UsedUpMemoryIsAnErrorAndTheConnectionGoesOn) {
  EndpointOptions options;
  options.arena.max_bytes = kLarge;
  Pair pair = connected(options);
  for (Endpoint* end : {pair.first.get(), pair.second.get()}) {
    auto loan = end->allocate(2 * kLarge);
    ASSERT_FALSE(loan);
    EXPECT_EQ(loan.error().code, ErrorCode::OutOfSharedMemory);
    const std::vector<std::byte> plain(2 * kLarge);
    EndpointTensor tensor;
    tensor.dtype = kUint8;
    tensor.shape = {2 * kLarge};
    tensor.plain = plain;
    auto sent = end->send(1, one(std::move(tensor)));
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::OutOfSharedMemory);
    ASSERT_TRUE(end->send(2, one(tensor_over(end->allocate(kLarge / 2).value()))));
  }
  EXPECT_EQ(next(*pair.first).tag, 2u);
  EXPECT_EQ(next(*pair.second).tag, 2u);
}

TEST(Endpoint, DestroyingItEndsAReceiveOfAnotherThread) {
  Pair pair = connected();
  std::atomic<bool> begun{false};
  std::thread receiver([&, end = pair.first.get()] {
    begun = true;
    auto message = end->receive();
    ASSERT_FALSE(message);
    EXPECT_EQ(message.error().code, ErrorCode::Closed);
  });
  while (!begun) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pair.first.reset();
  receiver.join();
}

TEST(Endpoint, OnlyOneThreadReceives) {
  Pair pair = connected();
  std::thread receiver([&] {
    const Deadline deadline = soon();
    for (Result<std::optional<EndpointMessage>> got; !(got && *got) && !passed(deadline);)
      got = pair.first->receive(deadline);
  });
  Result<std::optional<EndpointMessage>> second;
  const Deadline deadline = soon();
  do {
    second = pair.first->receive(Clock::now());
  } while (second && !passed(deadline));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::InvalidArgument);
  ASSERT_TRUE(pair.second->send(1, {}));
  receiver.join();
}

std::size_t mapped_segments() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);)
    count += line.find("memfd:tensorferry") != std::string::npos;
  return count;
}

TEST(Endpoint, TrimGivesIdleSegmentsBackOnBothSides) {
  Pair pair = connected();
  const std::size_t before = mapped_segments();
  for (Endpoint* end : {pair.first.get(), pair.second.get()}) {
    Endpoint* other = end == pair.first.get() ? pair.second.get() : pair.first.get();
    ASSERT_TRUE(end->send(1, one(tensor_over(end->allocate(kLarge).value()))));
    EndpointMessage there = next(*other);
    EXPECT_EQ(end->trim(), 0u) << "what the peer holds is not idle";
    there.tensors.clear();
    const Deadline deadline = soon();
    while (end->trim() == 0 && !passed(deadline)) std::this_thread::yield();
    EXPECT_EQ(end->statistics().segments, 0u);
    while (mapped_segments() != before && !passed(deadline)) std::this_thread::yield();
    EXPECT_EQ(mapped_segments(), before);
    ASSERT_TRUE(end->send(2, one(tensor_over(end->allocate(kLarge).value()))));
    next(*other);
    while (end->trim() == 0 && !passed(deadline)) std::this_thread::yield();
    while (mapped_segments() != before && !passed(deadline)) std::this_thread::yield();
  }
}

TEST(Endpoint, WhatThePeerWouldRefuseIsRefusedBeforeItIsSent) {
  Pair pair = connected();
  auto refused = [&](EndpointTensor tensor) {
    auto sent = pair.first->send(1, one(std::move(tensor)));
    return !sent && sent.error().code == ErrorCode::InvalidArgument;
  };
  EndpointTensor good;
  good.name = "T";
  good.dtype = kUint8;
  good.shape = {0};
  EndpointTensor name = good, rank = good, dtype = good, negative = good, overflow = good;
  name.name.assign(5000, 'x');
  rank.shape.assign(65, 0);
  dtype.dtype.bits = 7;
  negative.shape = {-1};
  overflow.dtype = kFloat64;
  overflow.shape = {std::int64_t{1} << 61};  // times eight is nothing
  EXPECT_TRUE(refused(name));
  EXPECT_TRUE(refused(rank));
  EXPECT_TRUE(refused(dtype));
  EXPECT_TRUE(refused(negative));
  EXPECT_TRUE(refused(overflow));
  ASSERT_TRUE(pair.first->send(2, one(good)));
  EXPECT_EQ(next(*pair.second).tag, 2u);
}

TEST(Endpoint, OptionsThatCannotBeAreRefused) {
  EndpointOptions ring, arena;
  ring.ring_capacity = 5000;
  arena.arena.max_bytes = SIZE_MAX;
  for (const EndpointOptions& options : {ring, arena}) {
    auto created = Endpoint::create(options);
    ASSERT_FALSE(created);
    EXPECT_EQ(created.error().code, ErrorCode::InvalidArgument);
  }
}

int exit_code(pid_t child) {
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

bool all_are(std::span<const std::byte> bytes, int value) {
  return std::ranges::all_of(bytes, [&](std::byte each) { return each == std::byte(value); });
}

TEST(EndpointAfterAFork, TheChildKeepsItsValuesAndItsEndIsVoid) {
  Pair pair = connected();
  auto own = pair.first->allocate(kLarge).value();
  std::memset(own.bytes().data(), 1, kLarge);
  auto loan = pair.second->allocate(kLarge).value();
  std::memset(loan.bytes().data(), 2, kLarge);
  ASSERT_TRUE(pair.second->send(1, one(tensor_over(std::move(loan)))));
  EndpointMessage got = next(*pair.first);
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go[1]);
    char byte;
    (void)!::read(go[0], &byte, 1);
    if (!all_are(own.bytes(), 1) || !all_are(got.tensors[0].bytes(), 2)) ::_exit(1);
    std::memset(own.bytes().data(), 7, kLarge);
    auto message = pair.first->receive(soon());
    if (message || message.error().code != ErrorCode::Closed) ::_exit(2);
    if (pair.first->send(1, {}) || pair.first->allocate(1)) ::_exit(3);
    own = {};
    got.tensors.clear();
    pair.first.reset();
    pair.second.reset();
    ::_exit(0);
  }
  std::memset(own.bytes().data(), 3, kLarge);
  std::memset(got.tensors[0].shared.bytes().data(), 4, kLarge);
  ::close(go[0]);
  ::close(go[1]);
  EXPECT_EQ(exit_code(child), 0);
  EXPECT_TRUE(all_are(own.bytes(), 3)) << "what the child writes is its own";
  ASSERT_TRUE(pair.second->send(2, {}));
  EXPECT_EQ(next(*pair.first).tag, 2u) << "the parent's connection goes on";
}

TEST(EndpointAfterAFork, AChildThatLivesOnDoesNotHideItsParentsDeath) {
  if (emulated()) GTEST_SKIP() << kNoThreadsAfterAFork;
  auto created = Endpoint::create();
  ASSERT_TRUE(created);
  auto& [end, fd] = *created;
  const pid_t peer = ::fork();
  if (peer == 0) {
    auto other = Endpoint::connect(std::move(fd), soon());
    if (!other) ::_exit(1);
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      ::pause();
      ::_exit(0);
    }
    EndpointTensor tensor;
    tensor.name = "pid";
    tensor.dtype = kUint8;
    tensor.shape = {sizeof grandchild};
    tensor.plain = std::as_bytes(std::span(&grandchild, 1));
    (void)(*other)->send(1, one(std::move(tensor)));
    ::pause();
    ::_exit(0);
  }
  fd.reset();
  EndpointMessage message = next(*end);
  pid_t grandchild = -1;
  std::memcpy(&grandchild, message.tensors.at(0).bytes().data(), sizeof grandchild);
  ::kill(peer, SIGKILL);
  ::waitpid(peer, nullptr, 0);
  auto ended = end->receive(soon());
  EXPECT_FALSE(ended);
  EXPECT_EQ(::kill(grandchild, 0), 0) << "it lives";
  ::kill(grandchild, SIGKILL);
}

}  // namespace
}  // namespace tensorferry
