#include "pool_books.h"

#include <algorithm>

namespace tensorferry::cuda {

std::optional<DeviceBlock> PoolBooks::take(std::size_t bytes) {
  const std::size_t size = reserved(bytes);
  const auto run = free_.take(size, size >= kLarge ? kLarge : kAlignment);
  if (!run) return std::nullopt;
  const DeviceBlock block{.id = ++last_block_,
                          .chunk = run->segment,
                          .offset = run->offset,
                          .bytes = bytes,
                          .ptr = chunks_.at(run->segment)->base() + run->offset};
  blocks_.emplace(block.id, Live{block});
  by_address_.emplace(block.ptr, block.id);
  ++statistics_.blocks_in_use;
  statistics_.bytes_in_use += size;
  statistics_.peak_bytes = std::max(statistics_.peak_bytes, statistics_.bytes_in_use);
  return block;
}

std::uint32_t* PoolBooks::holders(DeviceBlockId id) {
  const auto it = blocks_.find(id);
  return it == blocks_.end() ? nullptr : &it->second.holders;
}

bool PoolBooks::release(DeviceBlockId id) {
  const auto it = blocks_.find(id);
  if (it == blocks_.end()) return false;
  if (--it->second.holders > 0) return true;
  const DeviceBlock& block = it->second.block;
  const std::size_t size = reserved(block.bytes);
  free_.give({block.chunk, block.offset, size});
  statistics_.bytes_in_use -= size;
  --statistics_.blocks_in_use;
  by_address_.erase(block.ptr);
  blocks_.erase(it);
  return true;
}

std::optional<DeviceBlock> PoolBooks::lookup(DeviceBlockId id) const {
  const auto it = blocks_.find(id);
  if (it == blocks_.end()) return std::nullopt;
  return it->second.block;
}

std::optional<DeviceBlock> PoolBooks::find(DevicePtr address) const {
  auto it = by_address_.upper_bound(address);
  if (it == by_address_.begin()) return std::nullopt;
  const DeviceBlock& block = blocks_.at(std::prev(it)->second).block;
  if (address - block.ptr >= block.bytes) return std::nullopt;
  return block;
}

ChunkId PoolBooks::add_chunk(std::shared_ptr<Chunk> chunk) {
  const ChunkId id = ++last_chunk_;
  free_.add_segment(id, chunk->bytes());
  ++statistics_.chunks;
  chunks_.emplace(id, std::move(chunk));
  return id;
}

std::shared_ptr<Chunk> PoolBooks::chunk(ChunkId id) const {
  const auto it = chunks_.find(id);
  return it == chunks_.end() ? nullptr : it->second;
}

PoolBooks::Chunks PoolBooks::withdraw_idle(std::size_t keep_bytes) {
  Chunks gone;
  std::size_t kept = 0;
  for (auto it = chunks_.begin(); it != chunks_.end();) {
    const std::size_t bytes = it->second->bytes();
    const bool idle = free_.is_idle(it->first, bytes);
    if (idle && bytes > keep_bytes - kept) {
      free_.remove_idle(it->first, bytes);
      gone.emplace_back(it->first, std::move(it->second));
      it = chunks_.erase(it);
      --statistics_.chunks;
      continue;
    }
    if (idle) kept += bytes;
    ++it;
  }
  return gone;
}

}  // namespace tensorferry::cuda
