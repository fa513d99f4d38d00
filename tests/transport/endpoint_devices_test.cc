// Device tensors between two ends, on devices of the test's own: what is said, in which order, and
// what a peer that lies is told.
#include <gmock/gmock.h>
#include <tensorferry/transport/endpoint.h>

#include <functional>
#include <string>
#include <thread>

#include "field_walk.h"
#include "host_devices.h"
#include "raw_end.h"

namespace tensorferry {
namespace {

using protocol::EventSlot;
using protocol::LeaseRelease;
using protocol::UserMessage;
using testing::HasSubstr;

constexpr Device kGpu{DeviceKind::Cuda, 0};
constexpr std::int64_t kShape[1] = {8192};
const auto kAMoment = std::chrono::milliseconds(20);

EndpointOptions with_devices(const std::shared_ptr<HostDevices>& devices) {
  EndpointOptions options;
  options.devices = devices;
  options.device_arena = {1 << 16, 1 << 16, 1 << 20, 1 << 16};
  return options;
}

std::vector<EndpointTensor> one(SharedBytes memory) {
  std::vector<EndpointTensor> tensors(1);
  tensors[0].name = "T";
  tensors[0].dtype = kUint8;
  tensors[0].shape = {static_cast<std::int64_t>(memory.bytes().size())};
  tensors[0].shared = std::move(memory);
  return tensors;
}

struct Pair {
  explicit Pair(bool second_has_devices = true) {
    auto created = Endpoint::create(with_devices(here)).value();
    first = std::move(created.first);
    second =
        Endpoint::connect(std::move(created.second), soon(), second_has_devices ? there : nullptr)
            .value();
  }
  // Both have offered the device, so that events are there to be recorded.
  void warm_up() {
    ASSERT_TRUE(first->send(0, one(first->allocate_on(0, 8192).value()), soon()));
    auto message = second->receive(soon());
    ASSERT_TRUE(message && *message);
    ASSERT_TRUE(second->send(0, std::move((*message)->tensors), soon()));
    ASSERT_TRUE(first->receive(soon()).value());
  }
  SharedBytes filled(std::byte value) {
    SharedBytes memory = first->allocate_on(0, 8192).value();
    std::ranges::fill(memory.bytes(), value);
    memory.use_on(nullptr);
    return memory;
  }
  // The error of either step.
  Result<void> send_some(std::uint64_t tag) {
    auto memory = first->allocate_on(0, 8192);
    if (!memory) return std::unexpected(memory.error());
    memory->use_on(nullptr);
    return first->send(tag, one(std::move(*memory)), soon());
  }
  std::shared_ptr<HostDevices> here = std::make_shared<HostDevices>();
  std::shared_ptr<HostDevices> there = std::make_shared<HostDevices>();
  std::unique_ptr<Endpoint> first, second;
};

TEST(EndpointDevices, MovesMemoryThereAndBackWithoutACopyOrAWait) {
  Pair pair;
  pair.warm_up();
  const int waits = pair.here->place->waits;
  for (int round = 0; round < 100; ++round) {  // more than there are events
    SharedBytes memory = pair.filled(std::byte{7});
    const std::byte* at = memory.bytes().data();
    ASSERT_TRUE(pair.first->send(1, one(std::move(memory)), soon()));
    auto message = pair.second->receive(soon()).value().value();
    EXPECT_EQ(message.tensors[0].shared.device(), kGpu);
    message.tensors[0].shared.bytes()[5] = std::byte{8};
    ASSERT_TRUE(pair.second->send(2, std::move(message.tensors), soon()));
    auto back = pair.first->receive(soon()).value().value();
    EXPECT_EQ(back.tensors[0].bytes().data(), at);
    EXPECT_EQ(back.tensors[0].bytes()[5], std::byte{8});
  }
  EXPECT_EQ(pair.here->place->waits, waits);
  EXPECT_EQ(pair.here->place->copies + pair.there->place->copies, 0);
  EXPECT_EQ(pair.first->device_bytes_in_use(), 0u);
}

TEST(EndpointDevices, AMessageComesWhenItsWorkIsDoneAndHoldsUpThoseBehindIt) {
  Pair pair;
  pair.warm_up();
  pair.there->place->events->hold_back();
  ASSERT_TRUE(pair.first->send(1, one(pair.filled(std::byte{1})), soon()));
  std::vector<EndpointTensor> none;
  ASSERT_TRUE(pair.first->send(2, none, soon()));
  EXPECT_EQ(pair.second->receive(Clock::now() + kAMoment).value(), std::nullopt);
  pair.there->place->events->finish();
  EXPECT_EQ(pair.second->receive(soon()).value().value().tag, 1u);
  EXPECT_EQ(pair.second->receive(soon()).value().value().tag, 2u);
}

TEST(EndpointDevices, WhatWasSentBeforeACloseComesWhenItsWorkIsDone) {
  Pair pair;
  pair.warm_up();
  pair.there->place->events->hold_back();
  ASSERT_TRUE(pair.first->send(1, one(pair.filled(std::byte{1})), soon()));
  pair.first->close();
  EXPECT_EQ(pair.second->receive(Clock::now() + kAMoment).value(), std::nullopt);
  pair.there->place->events->finish();
  EXPECT_EQ(pair.second->receive(soon()).value().value().tag, 1u);
  EXPECT_EQ(pair.second->receive(soon()).error().code, ErrorCode::Closed);
}

TEST(EndpointDevices, AnEndThatIsDestroyedWaitsForNothing) {
  Pair pair;
  pair.warm_up();
  pair.there->place->events->hold_back();
  ASSERT_TRUE(pair.first->send(1, one(pair.filled(std::byte{1})), soon()));
  EXPECT_EQ(pair.second->receive(Clock::now() + kAMoment).value(), std::nullopt);
  pair.second.reset();
  const Deadline deadline = soon();
  while (pair.first->device_bytes_in_use() != 0 && !passed(deadline)) std::this_thread::yield();
  EXPECT_EQ(pair.first->device_bytes_in_use(), 0u);
}

TEST(EndpointDevices, MemoryThatSomebodyElseHoldsIsCopiedOnTheDevice) {
  Pair pair;
  SharedBytes mine = pair.filled(std::byte{3});
  ASSERT_TRUE(pair.first->send(1, one(mine), soon()));
  std::ranges::fill(mine.bytes(), std::byte{4});
  auto message = pair.second->receive(soon()).value().value();
  EXPECT_EQ(message.tensors[0].bytes()[0], std::byte{3});
  EXPECT_EQ(pair.here->place->copies, 1);
}

TEST(EndpointDevices, WithoutBytesATensorLiesNowhereAndKeepsItsDevice) {
  Pair pair;
  ASSERT_TRUE(pair.first->send(1, one(pair.first->allocate_on(0, 0).value()), soon()));
  auto message = pair.second->receive(soon()).value().value();
  EXPECT_EQ(message.tensors[0].shared.device(), kGpu);
  EXPECT_TRUE(message.tensors[0].bytes().empty());
}

TEST(EndpointDevices, WhoCantReceiveItSaysSoAndTheSenderLearnsOfIt) {
  Pair pair(false);
  // It may say so before the first message is sent.
  Result<void> sent = pair.send_some(1);
  if (sent) {
    auto lost = pair.second->receive(soon());
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(lost.error().message, HasSubstr("'T' can't be received"));
  }
  // Once its answer was read.
  const Deadline deadline = soon();
  while (sent && !passed(deadline)) {  // the sender hears of it on another thread
    sent = pair.send_some(2);
    auto lost = pair.second->receive(Clock::now() + kAMoment);
    EXPECT_FALSE(lost.value_or(std::nullopt));
    if (!lost) {
      EXPECT_THAT(lost.error().message, HasSubstr("'T' can't be received"));
    }
    EXPECT_FALSE(pair.first->receive(Clock::now() + kAMoment).value());
  }
  ASSERT_FALSE(sent);
  EXPECT_THAT(sent.error().message, HasSubstr("can't receive tensors of device 0"));
  while (pair.first->device_bytes_in_use() != 0 && !passed(deadline)) {
    (void)pair.second->receive(Clock::now() + kAMoment);  // idle: what it let go of goes home
    (void)pair.first->receive(Clock::now());
  }
  EXPECT_EQ(pair.first->device_bytes_in_use(), 0u);
}

TEST(EndpointDevices, MemoryThatCantBeMappedCostsItsMessageOnly) {
  Pair pair;
  pair.there->place->refuses_memory = true;
  ASSERT_TRUE(pair.first->send(1, one(pair.filled(std::byte{1})), soon()));
  std::vector<EndpointTensor> none;
  ASSERT_TRUE(pair.first->send(2, none, soon()));
  auto lost = pair.second->receive(soon());
  ASSERT_FALSE(lost);
  EXPECT_THAT(lost.error().message, HasSubstr("gpu_oom"));
  EXPECT_EQ(pair.second->receive(soon()).value().value().tag, 2u);
}

TEST(EndpointDevices, AnEndWithoutDevicesHasNone) {
  Pair pair(false);
  EXPECT_EQ(pair.second->allocate_on(0, 1).error().code, ErrorCode::Unsupported);
  EXPECT_EQ(pair.first->allocate_on(3, 1).error().code, ErrorCode::NotFound);
}

// Its streams are done with the memory only then.
TEST(EndpointDevices, WhatAPeerGivesBackAfterItsEndIsNoLie) {
  auto created = Endpoint::create(with_devices(std::make_shared<HostDevices>())).value();
  RawEnd peer(std::move(created.second));
  ASSERT_TRUE(created.first->send(1, one(created.first->allocate_on(0, 8192).value()), soon()));
  const LeaseRelease release{peer.hear().tensors[0].memory.lease, {}};
  peer.socket.shutdown();
  const Deadline deadline = soon();
  while (created.first->device_bytes_in_use() != 0 && !passed(deadline)) std::this_thread::yield();
  peer.say(protocol::Release{std::span(&release, 1)});
  EXPECT_EQ(created.first->receive(soon()).error().code, ErrorCode::Closed);
}

// ------------------------------------------------------------------------ a second end that lies
struct Liar {
  Liar() {
    auto created = Endpoint::create(with_devices(std::make_shared<HostDevices>())).value();
    end = std::move(created.first);
    raw.emplace(std::move(created.second));
  }
  template <class Message>
  void control(const Message& message) {
    EXPECT_TRUE(raw->socket.send(message));
  }
  void offer() {
    const std::string handle(protocol::kHandleBytes, 'h');
    const std::string_view events[1] = {handle};
    control(protocol::DeviceOffer{kGpu, kHostUuid, {}, events});
  }
  void segment(SegmentId id, Device device = kGpu) {
    control(protocol::DeviceSegment{id, protocol::SegmentRole::Host, device, 16384, 0,
                                    handle_of(memory.data())});
  }
  // A block of the honest end's device memory that the liar holds a lease on.
  protocol::TensorRecord lend() {
    EXPECT_TRUE(end->send(1, one(end->allocate_on(0, 8192).value()), soon()));
    return raw->hear().tensors[0];
  }
  void say(const protocol::TensorRecord& tensor) {
    raw->say(UserMessage{1, std::span(&tensor, 1), {}});
  }
  void say_events(std::span<const EventSlot> ready, std::span<const EventSlot> seen) {
    raw->say(UserMessage{1, {}, {}, ready, seen});
  }
  std::vector<std::byte> memory{16384};
  std::unique_ptr<Endpoint> end;
  std::optional<RawEnd> raw;
};

protocol::TensorRecord device_tensor(SegmentId id, std::uint64_t offset, std::uint64_t lease) {
  protocol::TensorRecord tensor = tensor_in(id, offset, kShape, lease);
  tensor.device = kGpu;
  tensor.memory.kind = protocol::MemoryKind::DeviceChunk;
  return tensor;
}

struct Lie {
  const char* name;
  std::function<void(Liar&)> tell;
  const char* says;
};

class EndRefuses : public testing::TestWithParam<Lie> {};

TEST_P(EndRefuses, ALieAboutDevicesAndHoldsNothingAfterwards) {
  Liar liar;
  GetParam().tell(liar);
  auto message = liar.end->receive(soon());
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code, ErrorCode::Protocol);
  EXPECT_THAT(message.error().message, HasSubstr(GetParam().says));
  const Deadline deadline = soon();
  while (liar.end->device_bytes_in_use() != 0 && !passed(deadline)) std::this_thread::yield();
  EXPECT_EQ(liar.end->device_bytes_in_use(), 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Each, EndRefuses,
    testing::Values(
        Lie{"OfferOfNoGpu",
            [](Liar& l) { l.control(protocol::DeviceOffer{{}, kHostUuid, {}, {}}); }, "none"},
        Lie{"OfferWithoutAName",
            [](Liar& l) { l.control(protocol::DeviceOffer{kGpu, "gpu", {}, {}}); }, "none"},
        Lie{"OfferOfAShortEvent",
            [](Liar& l) {
              const std::string_view events[1] = {"short"};
              l.control(protocol::DeviceOffer{kGpu, kHostUuid, {}, events});
            },
            "none"},
        Lie{"OfferTwice",
            [](Liar& l) {
              l.offer();
              l.offer();
            },
            "twice"},
        Lie{"RefusalOfWhatWasNotOffered",
            [](Liar& l) {
              l.control(protocol::DeviceRefused{kHostUuid, ErrorCode::Unsupported, "no"});
            },
            "not offered"},
        Lie{"SegmentOfAnotherDevice",
            [](Liar& l) {
              l.offer();
              l.segment(2, {DeviceKind::Cuda, 5});
            },
            "not offered"},
        Lie{"SegmentUnderANumberOfOurs",
            [](Liar& l) {
              l.offer();
              l.segment(1);
            },
            "number of ours"},
        Lie{"SegmentTwice",
            [](Liar& l) {
              l.offer();
              l.segment(2);
              l.segment(2);
            },
            "twice"},
        Lie{"SegmentWithoutAHandle",
            [](Liar& l) {
              l.offer();
              l.control(
                  protocol::DeviceSegment{2, protocol::SegmentRole::Host, kGpu, 16384, 0, {}});
            },
            "is none"},
        Lie{"TensorOfADeviceNotOffered", [](Liar& l) { l.say(device_tensor(2, 0, 1)); },
            "not offered"},
        Lie{"TensorInAnUnknownSegment",
            [](Liar& l) {
              l.offer();
              l.say(device_tensor(2, 0, 1));
            },
            "not sent"},
        Lie{"TensorThatLeavesItsSegment",
            [](Liar& l) {
              l.offer();
              l.segment(2);
              l.say(device_tensor(2, 12288, 1));
            },
            "leaves"},
        Lie{"OneRangeTwice",
            [](Liar& l) {
              l.offer();
              l.segment(2);
              const protocol::TensorRecord both[2] = {device_tensor(2, 0, 1),
                                                      device_tensor(2, 4096, 2)};
              l.raw->say(UserMessage{1, both, {}});
            },
            "overlap"},
        Lie{"OursThatItKeeps",
            [](Liar& l) {
              l.offer();
              l.say(l.lend());
            },
            "keeps"},
        Lie{"OursAsSharedMemory",
            [](Liar& l) {
              auto lent = l.lend();
              lent.device = {};
              lent.memory.kind = protocol::MemoryKind::Segment;
              const LeaseRelease release{lent.memory.lease, {}};
              l.raw->say(UserMessage{1, std::span(&lent, 1), std::span(&release, 1)});
            },
            "not known"},
        Lie{"ReleaseAfterEvents",
            [](Liar& l) {
              const EventSlot event{kGpu, 0, 1};
              const LeaseRelease release{l.lend().memory.lease, std::span(&event, 1)};
              l.raw->say(protocol::Release{std::span(&release, 1)});
            },
            "not lent"},
        Lie{"EventOfADeviceNotOffered",
            [](Liar& l) {
              const EventSlot event{kGpu, 0, 1};
              l.say_events(std::span(&event, 1), {});
            },
            "not shared"},
        Lie{"EventBeyondTheRing",
            [](Liar& l) {
              l.offer();
              const EventSlot event{kGpu, 9999, 1};
              l.say_events(std::span(&event, 1), {});
            },
            "event 9999"},
        Lie{"EventTwice",
            [](Liar& l) {
              l.offer();
              const EventSlot both[2] = {{kGpu, 0, 1}, {kGpu, 0, 2}};
              l.say_events(both, {});
            },
            "under way"},
        Lie{"SeenThatWasNotRecorded",
            [](Liar& l) {
              l.offer();
              const EventSlot event{kGpu, 0, 1};
              l.say_events({}, std::span(&event, 1));
            },
            "doesn't have"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace tensorferry
