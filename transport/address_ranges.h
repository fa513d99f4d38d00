// Which addresses belong to an arena, asked without a lock (a NumPy free() asks each time).
//
// A sequence number around atomic bounds: odd while they change, and a reader that saw it change
// looks again. Tables that became too small stay until the end, each at most half of the next, so
// a reader never meets freed memory.
#pragma once

#include <tensorferry/transport/spin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace tensorferry {

class AddressRanges {
 public:
  using Range = std::pair<std::uintptr_t, std::uintptr_t>;  // begin, end

  // Replaces all. One thread at a time.
  void assign(std::span<const Range> ranges) {
    Table* table = table_.load(std::memory_order_relaxed);
    if (!table || table->bounds.size() < 2 * ranges.size()) {
      tables_.push_back(std::make_unique<Table>(4 * ranges.size() + 8));
      Table* larger = tables_.back().get();
      fill(*larger, ranges);
      table_.store(larger, std::memory_order_release);
      return;
    }
    fill(*table, ranges);
  }

  // Lock-free but for the instant in which the ranges change; from any thread.
  bool contains(const void* address) const noexcept {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    while (true) {
      const Table* table = table_.load(std::memory_order_acquire);
      if (!table) return false;
      const std::uint32_t before = table->version.load(std::memory_order_acquire);
      bool found = false;
      const std::size_t used = table->used.load(std::memory_order_acquire);
      for (std::size_t i = 0; i < used && !found; ++i) {
        found = at >= table->bounds[2 * i].load(std::memory_order_acquire) &&
                at < table->bounds[2 * i + 1].load(std::memory_order_acquire);
      }
      if (before % 2 == 0 && table->version.load(std::memory_order_relaxed) == before) return found;
      cpu_pause();
    }
  }

 private:
  struct Table {
    explicit Table(std::size_t size) : bounds(size) {}
    std::atomic<std::uint32_t> version{0};
    std::atomic<std::size_t> used{0};
    std::vector<std::atomic<std::uintptr_t>> bounds;
  };

  static void fill(Table& table, std::span<const Range> ranges) {
    const std::uint32_t version = table.version.load(std::memory_order_relaxed);
    table.version.store(version + 1, std::memory_order_relaxed);
    // Release: whoever sees one of these sees the odd version too.
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      table.bounds[2 * i].store(ranges[i].first, std::memory_order_release);
      table.bounds[2 * i + 1].store(ranges[i].second, std::memory_order_release);
    }
    table.used.store(ranges.size(), std::memory_order_release);
    table.version.store(version + 2, std::memory_order_release);
  }

  std::atomic<Table*> table_{nullptr};
  std::vector<std::unique_ptr<Table>> tables_;
};

}  // namespace tensorferry
