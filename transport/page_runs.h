// The free pages of an arena's segments: runs, coalesced, best fit first. Private memory; one
// thread at a time.
#pragma once

#include <tensorferry/transport/segment.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace tensorferry {

class PageRuns {
 public:
  struct Run {
    SegmentId segment = 0;
    std::uint64_t offset = 0;
    std::size_t bytes = 0;
  };

  void add_segment(SegmentId id, std::size_t bytes) { insert({id, 0, bytes}); }
  // The smallest run that fits, its front; nullopt where none does.
  std::optional<Run> take(std::size_t bytes) {
    auto fit = by_size_.lower_bound({bytes, 0, 0});
    if (fit == by_size_.end()) return std::nullopt;
    auto [size, segment, offset] = *fit;
    erase(segment, offset, size);
    if (size > bytes) insert({segment, offset + bytes, size - bytes});
    return Run{segment, offset, bytes};
  }
  // Free again; joins with its neighbours.
  void give(Run run) {
    auto next = by_place_.lower_bound({run.segment, run.offset});
    if (next != by_place_.end() && next->first == std::pair(run.segment, run.offset + run.bytes)) {
      std::size_t bytes = next->second;
      erase(run.segment, run.offset + run.bytes, bytes);
      run.bytes += bytes;
    }
    auto previous = by_place_.lower_bound({run.segment, run.offset});
    if (previous != by_place_.begin()) {
      --previous;
      auto [place, bytes] = *previous;
      if (place.first == run.segment && place.second + bytes == run.offset) {
        erase(place.first, place.second, bytes);
        run.offset = place.second;
        run.bytes += bytes;
      }
    }
    insert(run);
  }
  // True if the segment is one free run; then it can be removed.
  bool is_idle(SegmentId id, std::size_t bytes) const {
    auto it = by_place_.find({id, 0});
    return it != by_place_.end() && it->second == bytes;
  }
  void remove_idle(SegmentId id, std::size_t bytes) { erase(id, 0, bytes); }

 private:
  void insert(const Run& run) {
    by_place_.emplace(std::pair(run.segment, run.offset), run.bytes);
    by_size_.emplace(run.bytes, run.segment, run.offset);
  }
  void erase(SegmentId segment, std::uint64_t offset, std::size_t bytes) {
    by_place_.erase({segment, offset});
    by_size_.erase({bytes, segment, offset});
  }

  std::map<std::pair<SegmentId, std::uint64_t>, std::size_t> by_place_;
  std::set<std::tuple<std::size_t, SegmentId, std::uint64_t>> by_size_;
};

}  // namespace tensorferry
