#include "chunk_shelf.h"

#include <string>

namespace tensorferry::stub {

void ChunkShelf::add(ClosedChunk chunk) {
  std::scoped_lock lock(mutex_);
  const SegmentId id = chunk.id;
  chunks_.insert_or_assign(id, Entry{std::move(chunk), nullptr});
  came_.notify_all();
}

void ChunkShelf::clear() {
  std::unordered_map<SegmentId, Entry> dropped;
  std::scoped_lock lock(mutex_);
  dropped.swap(chunks_);
}

bool ChunkShelf::drop(SegmentId id) {
  std::unique_lock lock(mutex_);
  auto dropped = chunks_.extract(id);
  lock.unlock();  // unmapping may wait for the device
  return !dropped.empty();
}

Result<std::byte*> ChunkShelf::address(const cuda::ContextPtr& context, SegmentId id,
                                       std::uint64_t offset, std::uint64_t bytes,
                                       const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  auto is_here = [&] { return chunks_.contains(id); };
  if (!is_here() && deadline) came_.wait_until(lock, *deadline, is_here);
  if (!is_here())
    return failure(ErrorCode::Protocol, "device segment " + std::to_string(id) + " did not come");
  Entry& entry = chunks_.at(id);
  if (!entry.mapped) {
    auto mapped = cuda::Chunk::open(context, std::move(entry.closed.handle), entry.closed.bytes);
    if (!mapped) {
      chunks_.erase(id);  // its handle is used up
      return std::unexpected(mapped.error());
    }
    entry.mapped = std::move(*mapped);
  }
  if (!entry.mapped->contains(offset, bytes))
    return failure(ErrorCode::Protocol, "a range leaves device segment " + std::to_string(id));
  return reinterpret_cast<std::byte*>(entry.mapped->base() + offset);
}

}  // namespace tensorferry::stub
