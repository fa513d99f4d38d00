#include <tensorferry/transport/copy.h>

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

namespace tensorferry {
namespace {

// What was counted since it was made.
class Counted {
 public:
  std::uint64_t calls(CopyKind kind) const {
    return copy_counts().calls_of(kind) - before_.calls_of(kind);
  }
  std::uint64_t bytes(CopyKind kind) const {
    return copy_counts().bytes_of(kind) - before_.bytes_of(kind);
  }

 private:
  CopyCounts before_ = copy_counts();
};

TEST(CopyPayload, CopiesAndCountsByKind) {
  std::vector<char> from(1000, 'x'), to(1000);
  Counted counted;
  copy_payload(to.data(), from.data(), 1000);
  copy_payload(to.data(), from.data(), 10, CopyKind::Inline);
  EXPECT_EQ(to, from);
  EXPECT_EQ(counted.calls(CopyKind::Host), 1u);
  EXPECT_EQ(counted.bytes(CopyKind::Host), 1000u);
  EXPECT_EQ(counted.calls(CopyKind::Inline), 1u);
  EXPECT_EQ(counted.bytes(CopyKind::Inline), 10u);
  EXPECT_EQ(counted.calls(CopyKind::Peer), 0u);
}

// Large copies go around the caches, line by line: with ends that lie anywhere.
TEST(CopyPayload, OfALargeOneIsWholeAtAnyAlignment) {
  constexpr std::size_t kBytes = (16 << 20) + 77;
  std::vector<unsigned char> from(kBytes + 64);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i * 7 / 5);
  for (std::size_t to_at : {0, 1, 63}) {
    for (std::size_t from_at : {0, 16, 33}) {
      std::vector<unsigned char> to(kBytes + 66, 0xEE);
      copy_payload(to.data() + 1 + to_at, from.data() + from_at, kBytes);
      EXPECT_EQ(std::memcmp(to.data() + 1 + to_at, from.data() + from_at, kBytes), 0);
      EXPECT_EQ(to[to_at], 0xEE) << "written before its begin";
      EXPECT_EQ(to[1 + to_at + kBytes], 0xEE) << "written beyond its end";
    }
  }
}

TEST(CopyPayload, OfNothingTakesNullPointers) {
  Counted counted;
  copy_payload(nullptr, nullptr, 0);
  EXPECT_EQ(counted.bytes(CopyKind::Host), 0u);
}

TEST(CopyPayload, LosesNoCountAmongThreads) {
  Counted counted;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int n = 0; n < 5000; ++n) count_copy(3, CopyKind::DeviceToHost);
    });
  }
  threads.clear();
  EXPECT_EQ(counted.calls(CopyKind::DeviceToHost), 20000u);
  EXPECT_EQ(counted.bytes(CopyKind::DeviceToHost), 60000u);
}

// Every element by its index: slow and plainly right.
std::vector<std::byte> gathered(const std::byte* from, std::vector<std::int64_t> shape,
                                std::vector<std::int64_t> strides, std::size_t element) {
  std::int64_t count = 1;
  for (std::int64_t extent : shape) count *= extent;
  std::vector<std::byte> out;
  for (std::int64_t flat = 0; flat < count; ++flat) {
    const std::byte* at = from;
    std::int64_t rest = flat;
    for (std::size_t axis = shape.size(); axis > 0; rest /= shape[--axis])
      at += rest % shape[axis - 1] * strides[axis - 1];
    out.insert(out.end(), at, at + element);
  }
  return out;
}

struct Layout {
  const char* name;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements
  std::int64_t start = 0;             // in elements
};

class CopyStrided : public testing::TestWithParam<Layout> {};

TEST_P(CopyStrided, GathersIntoCOrderAndCountsOnce) {
  const Layout& layout = GetParam();
  for (std::size_t element : {1, 2, 3, 4, 8, 16}) {
    std::vector<std::byte> from(4000 * element);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 31 % 251);
    std::vector<std::int64_t> strides = layout.strides;
    for (auto& stride : strides) stride *= static_cast<std::int64_t>(element);
    const std::byte* first = from.data() + layout.start * static_cast<std::int64_t>(element);
    auto wanted = gathered(first, layout.shape, strides, element);

    std::vector<std::byte> to(wanted.size() + 8, std::byte{0xee});
    Counted counted;
    copy_strided(to.data(), first, layout.shape.data(), strides.data(), strides.size(), element);
    EXPECT_EQ(std::vector(to.begin(), to.end() - 8), wanted) << element;
    EXPECT_EQ(std::vector(to.end() - 8, to.end()), std::vector(8, std::byte{0xee})) << element;
    EXPECT_EQ(counted.calls(CopyKind::Host), 1u);
    EXPECT_EQ(counted.bytes(CopyKind::Host), wanted.size());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, CopyStrided,
    testing::Values(Layout{"Scalar", {}, {}}, Layout{"Packed", {4, 5, 6}, {30, 6, 1}},
                    Layout{"Transposed", {6, 5, 4}, {1, 6, 30}},
                    Layout{"Reversed", {7, 3}, {-3, 1}, 18},
                    Layout{"ReversedInside", {7, 3}, {3, -1}, 2},
                    Layout{"Broadcast", {5, 4}, {0, 1}}, Layout{"BroadcastInside", {5, 4}, {1, 0}},
                    Layout{"EverySecond", {9}, {2}},
                    Layout{"RowsOfASlice", {4, 3, 5}, {100, 10, 1}},
                    Layout{"InnerPacked", {3, 4, 5}, {50, 5, 1}},
                    Layout{"ExtentsOfOne", {1, 6, 1, 3, 1}, {999, 3, -77, 1, 500}},
                    Layout{"Empty", {3, 0, 4}, {12, 4, 1}}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace tensorferry
