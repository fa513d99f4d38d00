// Any sequence of insertions and erasures, against a table of single bytes.
#include <tensorferry/transport/range_table.h>

#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tensorferry;
  FuzzInput input(data, size);
  RangeTable table;
  struct Range {
    SegmentId segment;
    std::uint64_t offset, bytes;
  };
  std::map<std::uint64_t, Range> leases;
  std::set<std::pair<SegmentId, std::uint64_t>> taken;
  while (!input.done()) {
    const std::uint8_t choice = input.byte();
    const std::uint64_t lease = input.byte() % 32;
    if (choice % 3 == 0) {
      const auto it = leases.find(lease);
      if (table.erase(lease) != (it != leases.end())) std::abort();
      if (it == leases.end()) continue;
      for (std::uint64_t i = 0; i < it->second.bytes; ++i)
        taken.erase({it->second.segment, it->second.offset + i});
      leases.erase(it);
      continue;
    }
    // Near zero, and near the end of all numbers.
    const std::uint64_t base = choice & 128 ? UINT64_MAX - 63 : 0;
    const Range range{SegmentId{choice % 2u}, base + input.byte() % 48, input.byte() % 16u};
    bool free = !leases.contains(lease);
    for (std::uint64_t i = 0; i < range.bytes; ++i)
      free &= !taken.contains({range.segment, range.offset + i});
    if (table.insert(lease, range.segment, range.offset, range.bytes).has_value() != free)
      std::abort();
    if (!free) continue;
    leases.emplace(lease, range);
    for (std::uint64_t i = 0; i < range.bytes; ++i) taken.insert({range.segment, range.offset + i});
  }
  if (table.size() != leases.size() || table.bytes() != taken.size()) std::abort();
  for (const auto& [lease, range] : leases)
    if (!table.contains(lease) || !table.erase(lease)) std::abort();
  if (!table.empty() || table.bytes() != 0) std::abort();
  return 0;
}
