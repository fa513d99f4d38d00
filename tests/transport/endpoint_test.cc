#include <gtest/gtest.h>
#include <sys/wait.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/endpoint.h>
#include <unistd.h>

#include <cstring>
#include <thread>

namespace tensorferry {
namespace {

constexpr std::size_t kLarge = 1 << 20;

Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

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

Pair connected() {
  auto created = Endpoint::create();
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
  auto created = Endpoint::create();
  ASSERT_TRUE(created);
  auto& [end, fd] = *created;
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto peer = Endpoint::connect(std::move(fd), soon());
    auto message = (*peer)->receive(soon());
    (void)(*peer)->send(1, {});
    ::pause();
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

}  // namespace
}  // namespace tensorferry
