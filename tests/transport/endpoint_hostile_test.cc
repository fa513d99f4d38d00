// An end against a peer that lies: it ends with an error that says what was wrong, at once, and
// holds nothing afterwards.
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <tensorferry/transport/endpoint.h>
#include <tensorferry/transport/version.h>

#include <algorithm>
#include <functional>
#include <string>
#include <thread>

#include "field_walk.h"
#include "raw_end.h"

namespace tensorferry {
namespace {

using protocol::LeaseRelease;
using protocol::UserMessage;
using testing::HasSubstr;

constexpr std::int64_t kShape[1] = {8192};

// ------------------------------------------------------------------------- a first end that lies
struct Greeting {
  const char* name;
  std::function<void(protocol::Welcome&)> spoil;
  const char* says;
};

class EndpointRefuses : public testing::TestWithParam<Greeting> {};

TEST_P(EndpointRefuses, AGreetingThatLies) {
  auto [here, there] = ControlSocket::pair().value();
  auto ring = Segment::create(0, channel_bytes(4096)).value();
  protocol::Welcome welcome{kBuildId, "", 4096, 4096, 4096, 1 << 20};
  GetParam().spoil(welcome);
  ASSERT_TRUE(here.send(welcome, ring->fd()));
  auto end = Endpoint::connect(there.release(), soon());
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, ErrorCode::Protocol);
  EXPECT_THAT(end.error().message, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Each, EndpointRefuses,
    testing::Values(
        Greeting{"RingOfNothing", [](auto& w) { w.ring_capacity = 0; }, "power of two"},
        Greeting{"RingTooSmall", [](auto& w) { w.ring_capacity = 2048; }, "power of two"},
        Greeting{"RingNoPowerOfTwo", [](auto& w) { w.ring_capacity = 5000; }, "power of two"},
        Greeting{"RingThatOverflows", [](auto& w) { w.ring_capacity = std::uint64_t{1} << 63; },
                 "power of two"},
        Greeting{"RingLargerThanItsSegment", [](auto& w) { w.ring_capacity = 8192; }, "announced"},
        Greeting{"ArenaThatOverflows", [](auto& w) { w.arena_max_bytes = UINT64_MAX; }, "memory"},
        Greeting{"FirstSegmentThatOverflows", [](auto& w) { w.arena_initial_bytes = UINT64_MAX; },
                 "memory"},
        Greeting{"GrowthThatOverflows", [](auto& w) { w.arena_growth_bytes = UINT64_MAX; },
                 "memory"},
        Greeting{"AnotherBuild", [](auto& w) { w.build_id = "0.0.1+older"; }, "0.0.1+older"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(EndpointConnect, NeedsTheRingsDescriptorAndAGreetingFirst) {
  for (bool greets : {true, false}) {
    auto [here, there] = ControlSocket::pair().value();
    if (greets) {
      ASSERT_TRUE(here.send(protocol::Welcome{kBuildId, "", 4096, 0, 0, 4096}));
    } else {
      ASSERT_TRUE(here.send(protocol::Trim{}));
    }
    auto end = Endpoint::connect(there.release(), soon());
    ASSERT_FALSE(end);
    EXPECT_EQ(end.error().code, ErrorCode::Protocol);
    EXPECT_THAT(end.error().message, HasSubstr(greets ? "descriptor" : "greeting"));
  }
}

TEST(EndpointConnect, EndsAtItsDeadlineWhereNobodyGreets) {
  auto [here, there] = ControlSocket::pair().value();
  auto end = Endpoint::connect(there.release(), Clock::now() + std::chrono::milliseconds(5));
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, ErrorCode::DeadlineExceeded);
}

// A second end whose first one is by hand.
struct Lied {
  Lied() {
    auto [ours, theirs] = ControlSocket::pair().value();
    auto ring = Segment::create(0, channel_bytes(4096)).value();
    EXPECT_TRUE(ours.send(protocol::Welcome{kBuildId, "", 4096, 4096, 4096, 1 << 20}, ring->fd()));
    end = Endpoint::connect(theirs.release(), soon()).value();
    socket.emplace(std::move(ours));
  }
  std::optional<ControlSocket> socket;
  std::unique_ptr<Endpoint> end;
};

struct Word {
  const char* name;
  std::function<void(ControlSocket&)> say;
  const char* says;
};

class SecondEndRefuses : public testing::TestWithParam<Word> {};

TEST_P(SecondEndRefuses, WhatAFirstEndMayNotSay) {
  Lied lied;
  GetParam().say(*lied.socket);
  auto message = lied.end->receive(soon());
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code, ErrorCode::Protocol);
  EXPECT_THAT(message.error().message, HasSubstr(GetParam().says));
}

void offer(ControlSocket& socket, SegmentId id, protocol::SegmentRole role, std::uint64_t to) {
  auto segment = Segment::create(id, 4096).value();
  EXPECT_TRUE(socket.send(protocol::Segment{id, role, 4096, to}, segment->fd()));
}

INSTANTIATE_TEST_SUITE_P(
    Each, SecondEndRefuses,
    testing::Values(
        Word{"SegmentThatNobodyAskedFor",
             [](ControlSocket& s) { offer(s, 1, protocol::SegmentRole::Stub, 7); }, "asked"},
        Word{"SegmentForNeitherArena",
             [](ControlSocket& s) { offer(s, 1, protocol::SegmentRole::Stub, 0); }, "neither"},
        Word{"SegmentTwice",
             [](ControlSocket& s) {
               offer(s, 1, protocol::SegmentRole::Host, 0);
               offer(s, 1, protocol::SegmentRole::Host, 0);
             },
             "twice"},
        Word{"SegmentWithoutDescriptor",
             [](ControlSocket& s) {
               EXPECT_TRUE(s.send(protocol::Segment{1, protocol::SegmentRole::Host, 4096, 0}));
             },
             "descriptor"},
        Word{"DenialOfNothing",
             [](ControlSocket& s) {
               EXPECT_TRUE(s.send(protocol::SegmentDenied{1, ErrorCode::Internal, "no"}));
             },
             "not made"},
        Word{"DropOfNothing",
             [](ControlSocket& s) { EXPECT_TRUE(s.send(protocol::SegmentDropped{3})); }, "drops"},
        Word{"RequestForASegment",
             [](ControlSocket& s) { EXPECT_TRUE(s.send(protocol::SegmentRequest{1, 4096})); },
             "may not"},
        Word{"WordsOfAServer",
             [](ControlSocket& s) { EXPECT_TRUE(s.send(protocol::Load{"p", "{}"})); }, "may not"}),
    [](const auto& test) { return std::string(test.param.name); });

// ------------------------------------------------------------------------ a second end that lies
struct Liar {
  explicit Liar(EndpointOptions options = {}) {
    auto created = Endpoint::create(options).value();
    end = std::move(created.first);
    raw.emplace(std::move(created.second));
  }
  // A block of the honest end that the liar holds a lease on, and its segment.
  protocol::TensorRecord lend() {
    auto memory = end->allocate(8192).value();
    auto segment = raw->next_segment();
    EndpointTensor tensor;
    tensor.name = "T";
    tensor.dtype = kUint8;
    tensor.shape = {8192};
    tensor.shared = std::move(memory);
    std::vector<EndpointTensor> tensors;
    tensors.push_back(std::move(tensor));
    EXPECT_TRUE(end->send(1, std::move(tensors), soon()));
    return raw->hear().tensors[0];
  }
  std::unique_ptr<Endpoint> end;
  std::optional<RawEnd> raw;
};

struct Lie {
  const char* name;
  std::function<void(Liar&)> tell;
  const char* says;
};

class FirstEndRefuses : public testing::TestWithParam<Lie> {};

TEST_P(FirstEndRefuses, ALieAtOnceAndHoldsNothingAfterwards) {
  Liar liar;
  GetParam().tell(liar);
  auto message = liar.end->receive(soon());
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code, ErrorCode::Protocol);
  EXPECT_THAT(message.error().message, HasSubstr(GetParam().says));
  auto end = liar.raw->socket.receive(soon());
  EXPECT_FALSE(end) << "the peer learns of it";
  const Deadline deadline = soon();
  while (liar.end->statistics().bytes_in_use != 0 && !passed(deadline)) std::this_thread::yield();
  EXPECT_EQ(liar.end->statistics().bytes_in_use, 0u);
}

void say_one(Liar& liar, const protocol::TensorRecord& tensor) {
  liar.raw->say(UserMessage{1, std::span(&tensor, 1), {}});
}

INSTANTIATE_TEST_SUITE_P(
    Each, FirstEndRefuses,
    testing::Values(
        Lie{"UnknownSegment", [](Liar& l) { say_one(l, tensor_in(77, 0, kShape, 1)); }, "77"},
        Lie{"RangeThatLeavesItsSegment",
            [](Liar& l) {
              auto segment = l.raw->ask(8192);
              say_one(l, tensor_in(segment->id(), 4096, kShape, 1));
            },
            "leave"},
        Lie{"OneRangeTwiceInAMessage",
            [](Liar& l) {
              auto segment = l.raw->ask(8192);
              protocol::TensorRecord both[2] = {tensor_in(segment->id(), 0, kShape, 1),
                                                tensor_in(segment->id(), 0, kShape, 2)};
              l.raw->say(UserMessage{1, both, {}});
            },
            "overlap"},
        Lie{"ALeaseTwice",
            [](Liar& l) {
              auto segment = l.raw->ask(3 * 8192);
              protocol::TensorRecord both[2] = {tensor_in(segment->id(), 0, kShape, 1),
                                                tensor_in(segment->id(), 8192, kShape, 1)};
              l.raw->say(UserMessage{1, both, {}});
            },
            "out already"},
        Lie{"OursWithoutALease",
            [](Liar& l) {
              auto lent = l.lend();
              say_one(l, tensor_in(lent.memory.place, lent.memory.offset, kShape, 99));
            },
            "not known"},
        Lie{"OursBesideItsLease",
            [](Liar& l) {
              auto lent = l.lend();
              say_one(l, tensor_in(lent.memory.place, lent.memory.offset + 4096, kShape,
                                   lent.memory.lease));
            },
            "not known"},
        Lie{"OursThatItKeeps", [](Liar& l) { say_one(l, l.lend()); }, "keeps"},
        Lie{"OursHomeTwice",
            [](Liar& l) {
              auto lent = l.lend();
              protocol::TensorRecord both[2] = {lent, lent};
              LeaseRelease release{lent.memory.lease, {}};
              l.raw->say(UserMessage{1, both, std::span(&release, 1)});
            },
            "not known"},
        Lie{"ReleaseOfNothing",
            [](Liar& l) {
              LeaseRelease release{5, {}};
              l.raw->say(protocol::Release{std::span(&release, 1)});
            },
            "not lent"},
        Lie{"ReleaseTwice",
            [](Liar& l) {
              auto lent = l.lend();
              LeaseRelease both[2] = {{lent.memory.lease, {}}, {lent.memory.lease, {}}};
              l.raw->say(protocol::Release{both});
            },
            "not lent"},
        Lie{"StridedTensor",
            [](Liar& l) {
              static constexpr std::int64_t kStrides[1] = {1};
              auto segment = l.raw->ask(8192);
              auto tensor = tensor_in(segment->id(), 0, kShape, 1);
              tensor.strides = kStrides;
              say_one(l, tensor);
            },
            "C order"},
        Lie{"DeviceMemory",
            [](Liar& l) {
              auto tensor = tensor_in(1, 0, kShape, 1);
              tensor.memory.kind = protocol::MemoryKind::DeviceChunk;
              say_one(l, tensor);
            },
            "not on that device"},
        Lie{"TensorOnADevice",
            [](Liar& l) {
              auto tensor = tensor_in(1, 0, kShape, 1);
              tensor.device = {DeviceKind::Cuda, 0};
              tensor.memory.kind = protocol::MemoryKind::DeviceChunk;
              say_one(l, tensor);
            },
            "not offered"},
        Lie{"RecordOfAServer", [](Liar& l) { l.raw->say(protocol::Cancel{1}); }, "unexpected"},
        Lie{"SpillIntoNothing",
            [](Liar& l) { l.raw->say_spilled({{protocol::MemoryKind::Segment, 9, 0, 100, 1}}); },
            "not known"},
        Lie{"SpillWithoutEnd",
            [](Liar& l) {
              l.raw->say_spilled({{protocol::MemoryKind::Segment, 9, 0, UINT64_MAX, 1}});
            },
            "none may"},
        Lie{"RingOverwritten",
            [](Liar& l) {
              auto* header = reinterpret_cast<protocol::RingHeader*>(l.raw->ring->data() +
                                                                     ring_bytes(l.raw->capacity));
              header->tail.store(12345);
            },
            "overwritten"},
        Lie{"SegmentThatItOffers",
            [](Liar& l) { offer(l.raw->socket, 1, protocol::SegmentRole::Stub, 1); }, "may not"},
        Lie{"DropOfNothing",
            [](Liar& l) { EXPECT_TRUE(l.raw->socket.send(protocol::SegmentDropped{3})); },
            "drops"}),
    [](const auto& test) { return std::string(test.param.name); });

// ------------------------------------------------------------- every field of a message, changed
struct EncodedMessage {
  std::vector<std::byte> bytes;
  std::vector<EncodedField> fields;
};

// One of everything: a lent block that comes home, a range of the liar's own, and an inline one.
EncodedMessage message_of_everything(Liar& liar) {
  static constexpr std::int64_t kMatrix[2] = {2, 2};
  static constexpr std::byte kBytes[4] = {};
  const protocol::MemoryRef lent = liar.lend().memory;
  const auto own = liar.raw->ask(2 * 8192);
  protocol::TensorRecord tensors[3] = {
      tensor_in(lent.place, lent.offset, kShape, lent.lease),
      tensor_in(own->id(), 4096, kShape, 7),
      {"I", kUint8, {}, kMatrix, {}, {protocol::MemoryKind::Inline, 0, 0, 4, 0}, kBytes}};
  const protocol::EventSlot slot;
  const LeaseRelease release{lent.lease, std::span(&slot, 1)};
  const UserMessage message{5, tensors, std::span(&release, 1)};
  std::vector<std::byte> bytes(encoded_bytes(message));
  EXPECT_EQ(encode(message, bytes), bytes.size());
  return {bytes, FieldWalk::of(message)};
}

// What the end makes of these bytes, to the last byte of what it hands out.
Result<std::optional<EndpointMessage>> told(Liar& liar, std::span<const std::byte> bytes) {
  liar.raw->say_bytes(bytes, protocol::RecordKind::User);
  auto message = liar.end->receive(soon());
  if (!message || !*message) return message;
  for (EndpointTensor& tensor : (*message)->tensors) {
    if (tensor.shared) std::ranges::fill(tensor.shared.bytes(), std::byte{0x11});
    const std::byte filled{static_cast<unsigned char>(tensor.shared ? 0x11 : 0)};
    EXPECT_THAT(tensor.bytes(), testing::Each(filled));
  }
  return message;
}

TEST(FirstEnd, TakesTheUnchangedMessageOfEverything) {
  Liar liar;
  auto message = told(liar, message_of_everything(liar).bytes);
  ASSERT_TRUE(message) << message.error().message;
  ASSERT_TRUE(*message);
  EXPECT_EQ((*message)->tensors.size(), 3u);
}

TEST(FirstEnd, LivesWithEveryFieldOfAMessageChanged) {
  int refused = 0, harmless = 0;
  for (std::size_t field = 0, fields = 1; field < fields; ++field) {
    for (std::size_t which = 0;; ++which) {
      Liar liar;
      const EncodedMessage valid = message_of_everything(liar);
      fields = valid.fields.size();
      const auto changed = mutations(valid.bytes, valid.fields[field]);
      if (which >= changed.size()) break;
      auto bystander = liar.end->allocate(8192).value();
      std::ranges::fill(bystander.bytes(), std::byte{0x5A});
      SCOPED_TRACE("field " + valid.fields[field].path + ", change " + std::to_string(which));
      {
        auto message = told(liar, changed[which]);
        (message ? harmless : refused) += 1;
        if (message) {
          EXPECT_TRUE(*message) << "nothing came of it";
        } else {
          EXPECT_EQ(message.error().code, ErrorCode::Protocol) << message.error().message;
        }
      }
      EXPECT_THAT(bystander.bytes(), testing::Each(std::byte{0x5A}));
      bystander = {};
      liar.raw.reset();
      const Deadline deadline = soon();
      while (liar.end->statistics().bytes_in_use != 0 && !passed(deadline))
        std::this_thread::yield();
      ASSERT_EQ(liar.end->statistics().bytes_in_use, 0u);
    }
  }
  EXPECT_GT(refused, harmless) << "most of a message is checked";
}

TEST(FirstEnd, RefusesAMessageThatEndsAnywhere) {
  std::size_t size = 1;
  for (std::size_t length = 0; length < size; ++length) {
    Liar liar;
    const EncodedMessage whole = message_of_everything(liar);
    size = whole.bytes.size();
    auto message = told(liar, std::span(whole.bytes).first(length));
    ASSERT_FALSE(message) << length;
    EXPECT_EQ(message.error().code, ErrorCode::Protocol);
  }
}

TEST(FirstEnd, GrantsNoMoreThanTheArenasMaximumHoweverOftenItIsAsked) {
  EndpointOptions options;
  options.arena.max_bytes = 64 << 10;
  Liar liar(options);
  auto first = liar.raw->ask(48 << 10);
  auto asked = [&](std::uint64_t bytes) {
    EXPECT_TRUE(liar.raw->socket.send(protocol::SegmentRequest{9, bytes}));
    return liar.raw->next_control().kind;
  };
  EXPECT_EQ(asked(48 << 10), protocol::ControlKind::SegmentDenied);
  EXPECT_EQ(asked(UINT64_MAX), protocol::ControlKind::SegmentDenied);
  ASSERT_TRUE(liar.raw->socket.send(protocol::SegmentDropped{first->id()}));
  EXPECT_EQ(asked(48 << 10), protocol::ControlKind::Segment) << "what was dropped counts no more";
}

TEST(FirstEnd, NamesWithoutUtf8AndEmptyMessagesAreNoLies) {
  Liar liar;
  liar.raw->say(UserMessage{3, {}, {}});
  auto message = liar.end->receive(soon());
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->tag, 3u);
  protocol::TensorRecord tensor;
  tensor.name = "\xff\xfe";
  tensor.dtype = kBool;
  constexpr std::int64_t kEmpty[1] = {0};
  tensor.shape = kEmpty;
  liar.raw->say(UserMessage{4, std::span(&tensor, 1), {}});
  message = liar.end->receive(soon());
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->tensors.at(0).name, "\xff\xfe");
}

}  // namespace
}  // namespace tensorferry
