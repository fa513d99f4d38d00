// What holds for any valid message of every kind, by random ones. TENSORFERRY_LONG_TESTS=1 tries
// many more of them.
#include <gtest/gtest.h>
#include <tensorferry/transport/codec.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "all_messages.h"
#include "random_message.h"

namespace tensorferry {
namespace {

std::uint64_t seeds(std::uint64_t usual) {
  return std::getenv("TENSORFERRY_LONG_TESTS") ? 20 * usual : usual;
}

template <class Message>
std::vector<std::byte> bytes_of(const Message& message) {
  std::vector<std::byte> bytes(encoded_bytes(message));
  EXPECT_EQ(encode(message, bytes), bytes.size());
  return bytes;
}

// Equal in all that can be said: bool, numbers and texts by value, doubles by their bits.
template <class T>
bool same(const T& a, const T& b) {
  if constexpr (requires { T::fields(); }) {
    return std::apply([&](auto... member) { return (same(a.*member, b.*member) && ...); },
                      T::fields());
  } else if constexpr (requires { typename T::traits_type; }) {
    return a == b;
  } else if constexpr (requires { a.begin(); }) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
      if (!same(a[i], b[i])) return false;
    return true;
  } else if constexpr (std::is_same_v<T, double>) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
  } else {
    return a == b;
  }
}

// Calls `check.operator()<Message>(message, bytes)` for random messages of all kinds.
template <class Check>
void for_random_messages(std::uint64_t count, Check&& check) {
  for (std::uint64_t seed = 0; seed < count; ++seed) {
    RandomMessage random(seed);
    for_each_message([&]<class Message>() {
      const auto message = random.template make<Message>();
      SCOPED_TRACE(std::string(name_of<Message>()) + ", seed " + std::to_string(seed));
      check.template operator()<Message>(message, bytes_of(message));
    });
    if (testing::Test::HasFailure()) return;
  }
}

TEST(AnyMessage, SurvivesTheRoundTrip) {
  Scratch scratch;
  for_random_messages(
      seeds(300), [&]<class Message>(const Message& message, const std::vector<std::byte>& bytes) {
        scratch.reset();
        auto decoded = decode<Message>(bytes, scratch);
        ASSERT_TRUE(decoded) << decoded.error().message;
        EXPECT_TRUE(same(message, *decoded));
        EXPECT_EQ(bytes_of(*decoded), bytes);
      });
}

TEST(AnyMessage, IsAnErrorWhereItIsCutOrHasMore) {
  Scratch scratch;
  for_random_messages(
      seeds(20), [&]<class Message>(const Message&, const std::vector<std::byte>& bytes) {
        auto refused = [&](std::span<const std::byte> some) {
          scratch.reset();
          auto decoded = decode<Message>(some, scratch);
          return !decoded && decoded.error().code == ErrorCode::Protocol &&
                 decoded.error().message.starts_with(name_of<Message>());
        };
        const std::size_t step = bytes.size() / 500 + 1;
        for (std::size_t size = 0; size < bytes.size(); size += step)
          ASSERT_TRUE(refused(std::span(bytes).first(size))) << size << " of " << bytes.size();
        std::vector<std::byte> more = bytes;
        more.push_back({});
        EXPECT_TRUE(refused(more));
      });
}

TEST(AnyMessage, WithAChangedByteIsAnErrorOrAnotherMessage) {
  Scratch scratch;
  std::mt19937 random(1);
  for_random_messages(
      seeds(4), [&]<class Message>(const Message&, const std::vector<std::byte>& bytes) {
        const std::size_t step = bytes.size() / 300 + 1;
        for (std::size_t at = 0; at < bytes.size(); at += step) {
          for (unsigned change : {0x01u, 0x80u, 0xFFu, static_cast<unsigned>(1 + random() % 255)}) {
            auto changed = bytes;
            changed[at] ^= static_cast<std::byte>(change);
            scratch.reset();
            auto decoded = decode<Message>(changed, scratch);
            if (decoded) {
              ASSERT_EQ(bytes_of(*decoded), changed) << "byte " << at;
            } else {
              ASSERT_EQ(decoded.error().code, ErrorCode::Protocol);
            }
          }
        }
      });
}

// ------------------------------------------------------------------------------ limits, one by one
template <class Message>
std::string refusal(const Message& message) {
  Scratch scratch;
  auto decoded = decode<Message>(bytes_of(message), scratch);
  return decoded ? "" : decoded.error().message;
}

TEST(Limits, OfNamesKeysAndIdsAreHeld) {
  const std::string longest(protocol::kMaxNameBytes, 'x'), longer(protocol::kMaxNameBytes + 1, 'x');
  for (const std::string& name : {longest, longer}) {
    const bool fits = name.size() <= protocol::kMaxNameBytes;
    std::string_view view = name;
    protocol::Parameter parameter{view, protocol::ParameterKind::Int, 0, 0, {}};
    protocol::TensorRecord tensor;
    tensor.name = view;
    tensor.dtype = kBytes;
    protocol::RequestRecord id, correlation, output, key, input;
    id.id = view;
    correlation.correlation_text = view;
    output.requested_outputs = std::span(&view, 1);
    key.parameters = std::span(&parameter, 1);
    input.inputs = std::span(&tensor, 1);
    for (const auto* request : {&id, &correlation, &output, &key, &input}) {
      protocol::Execute execute{1, std::span(request, 1), {}, {}};
      EXPECT_EQ(refusal(execute).empty(), fits) << refusal(execute);
    }
  }
}

TEST(Limits, OfTextsAreHeld) {
  const std::string longer(protocol::kMaxTextBytes + 1, 'x');
  EXPECT_EQ(refusal(protocol::Load{std::string_view(longer).substr(1), {}}), "");
  EXPECT_NE(refusal(protocol::Load{longer, {}}), "");
}

TEST(Limits, OfRanksAreHeld) {
  const std::vector<std::int64_t> dims(protocol::kMaxRank + 1, 1);
  for (std::size_t rank : {protocol::kMaxRank, protocol::kMaxRank + 1}) {
    protocol::TensorRecord tensor;
    tensor.dtype = kUint8;
    tensor.shape = std::span(dims).first(rank);
    const std::byte byte{1};
    tensor.inline_bytes = std::span(&byte, 1);
    tensor.memory.bytes = 1;
    protocol::UserMessage message{1, std::span(&tensor, 1), {}};
    EXPECT_EQ(refusal(message).empty(), rank == protocol::kMaxRank);
  }
}

}  // namespace
}  // namespace tensorferry
