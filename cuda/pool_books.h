// The books of a device pool: which block lies where and how many hold it. Private memory; one
// thread at a time (the pool's mutex).
#pragma once

#include <tensorferry/cuda/device_pool.h>
#include <tensorferry/transport/free_runs.h>

#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tensorferry::cuda {

class PoolBooks {
 public:
  // What a block of that size takes.
  static std::size_t reserved(std::size_t bytes) noexcept {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  // A block with one holder from the free ranges.
  std::optional<DeviceBlock> take(std::size_t bytes);
  // nullptr for an id that names no live block.
  std::uint32_t* holders(DeviceBlockId id);
  // One holder less; the last one's block is free.
  bool release(DeviceBlockId id);
  std::optional<DeviceBlock> lookup(DeviceBlockId id) const;
  std::optional<DeviceBlock> find(DevicePtr address) const;

  ChunkId add_chunk(std::shared_ptr<Chunk> chunk);
  std::shared_ptr<Chunk> chunk(ChunkId id) const;
  using Chunks = std::vector<std::pair<ChunkId, std::shared_ptr<Chunk>>>;
  Chunks chunks() const { return {chunks_.begin(), chunks_.end()}; }
  Chunks withdraw_idle(std::size_t keep_bytes);

  // Those of bytes, blocks and chunks that are in the books.
  const DevicePoolStatistics& statistics() const noexcept { return statistics_; }

 private:
  // What every kernel and copy engine likes; large blocks lie on pages of the device's own size.
  static constexpr std::size_t kAlignment = 512;
  static constexpr std::size_t kLarge = 2 << 20;

  struct Live {
    DeviceBlock block;
    std::uint32_t holders = 1;
  };

  FreeRuns free_;
  std::map<ChunkId, std::shared_ptr<Chunk>> chunks_;
  std::unordered_map<DeviceBlockId, Live> blocks_;
  std::map<DevicePtr, DeviceBlockId> by_address_;
  DeviceBlockId last_block_ = 0;
  ChunkId last_chunk_ = 0;
  DevicePoolStatistics statistics_;
};

}  // namespace tensorferry::cuda
