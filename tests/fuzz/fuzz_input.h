// Takes a fuzzer's bytes apart into small decisions; zeros once they are used up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace tensorferry {

class FuzzInput {
 public:
  FuzzInput(const unsigned char* data, std::size_t size) : rest_(data, size) {}

  bool done() const noexcept { return rest_.empty(); }

  template <class T>
  T number() noexcept {
    T value{};
    const auto bytes = take(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  std::uint8_t byte() noexcept { return number<std::uint8_t>(); }
  // At most `count`, fewer where no more are left.
  std::span<const unsigned char> take(std::size_t count) noexcept {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const unsigned char> rest_;
};

}  // namespace tensorferry
