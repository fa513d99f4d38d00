// Ranges of bytes, and tables of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace tensorferry::stub {

inline bool overlap(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
}

inline bool lies_in(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

// The first of a key's ranges for which `is` holds; the end where there is none.
auto find_range(auto& ranges, const auto& key, auto is) {
  auto [at, end] = ranges.equal_range(key);
  at = std::find_if(at, end, [&](const auto& entry) { return is(entry.second); });
  return at == end ? ranges.end() : at;
}

}  // namespace tensorferry::stub
