#include <gmock/gmock.h>
#include <tensorferry/transport/byte_strings.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace tensorferry {
namespace {

using testing::HasSubstr;

std::vector<std::byte> encoded(const std::vector<std::string>& elements) {
  std::vector<std::byte> bytes;
  for (const std::string& element : elements) {
    const auto length = static_cast<std::uint32_t>(element.size());
    const auto* at = reinterpret_cast<const std::byte*>(&length);
    bytes.insert(bytes.end(), at, at + sizeof length);
    const auto* text = reinterpret_cast<const std::byte*>(element.data());
    bytes.insert(bytes.end(), text, text + element.size());
  }
  return bytes;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(ByteStrings, ElementsComeInOrderAndThenNothingIsLeft) {
  const std::vector<std::string> elements{"one", "", std::string("\0two", 4),
                                          std::string(300, 'x')};
  const auto bytes = encoded(elements);
  ByteStringReader reader(bytes);
  for (const std::string& element : elements) EXPECT_EQ(text_of(reader.next().value()), element);
  EXPECT_TRUE(reader.finish());
}

TEST(ByteStrings, NoPrefixOfAnEncodingIsTakenForTheWhole) {
  const auto bytes = encoded({"first", "second"});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ByteStringReader reader({bytes.data(), size});
    auto first = reader.next();
    auto second = first ? reader.next() : std::move(first);
    ASSERT_FALSE(second) << size;
    EXPECT_EQ(second.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(second.error().message, HasSubstr("Invalid bytes tensor data: "));
  }
}

TEST(ByteStrings, BytesAfterTheLastElementAreAnError) {
  auto bytes = encoded({"all"});
  bytes.push_back({});
  ByteStringReader reader(bytes);
  EXPECT_TRUE(reader.next());
  ASSERT_FALSE(reader.finish());
  EXPECT_THAT(reader.finish().error().message, HasSubstr("more bytes than elements"));
}

TEST(ByteStrings, ALengthThatReachesTheEndOfTheAddressSpaceIsAnError) {
  std::vector<std::byte> bytes(64, std::byte{0xFF});
  ByteStringReader reader(bytes);
  auto element = reader.next();
  ASSERT_FALSE(element);
  EXPECT_THAT(element.error().message, HasSubstr("string extends beyond buffer"));
}

TEST(ByteStrings, AShapeIsBelievedOnlyAsFarAsItsBytesCanHoldIt) {
  const std::vector<std::byte> bytes(40);
  const ByteStringReader reader(bytes);
  EXPECT_TRUE(reader.may_hold(10));
  EXPECT_FALSE(reader.may_hold(11));
  EXPECT_FALSE(reader.may_hold(SIZE_MAX));
}

// The peer goes on writing: between the check of a length and its use, too.
TEST(ByteStrings, LengthsThatChangeWhileTheyAreReadNeverLeadOutOfTheMemory) {
  alignas(4) static std::byte memory[256];
  std::atomic<bool> done{false};
  std::jthread writer([&] {
    const std::uint32_t lengths[] = {4, 0xFFFFFFF0, 0, 200, 252, 253};
    for (std::size_t i = 0; !done.load(std::memory_order_relaxed); ++i) {
      for (std::size_t at = 0; at < sizeof memory; at += 4)
        __atomic_store_n(reinterpret_cast<std::uint32_t*>(memory + at), lengths[(i + at) % 6],
                         __ATOMIC_RELAXED);
    }
  });
  std::size_t elements = 0, errors = 0;
  while (elements < 20000 || errors < 2000) {
    ByteStringReader reader(memory);
    while (auto element = reader.next()) {
      ++elements;
      ASSERT_GE(element->data(), memory);
      ASSERT_LE(element->data() + element->size(), memory + sizeof memory);
    }
    ++errors;
  }
  done = true;
}

}  // namespace
}  // namespace tensorferry
