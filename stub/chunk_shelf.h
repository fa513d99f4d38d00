// The server's chunks on one device, as they came: closed until somebody asks for an address in
// one, mapped from then on. Thread-safe.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "replies.h"

namespace tensorferry::stub {

class ChunkShelf {
 public:
  void add(ClosedChunk chunk);
  // None of them will be mapped.
  void clear();
  // False for one that isn't here.
  bool drop(SegmentId id);
  // Where the range lies on the device. Maps its chunk if need be, and waits for one that is on its
  // way. Errors: Protocol for a chunk that doesn't come, or a range that leaves it; cuda::Chunk's.
  Result<std::byte*> address(const cuda::ContextPtr& context, SegmentId id, std::uint64_t offset,
                             std::uint64_t bytes, const Deadline& deadline);

 private:
  struct Entry {
    ClosedChunk closed;
    std::shared_ptr<cuda::Chunk> mapped;
  };
  std::mutex mutex_;
  std::condition_variable came_;
  std::unordered_map<SegmentId, Entry> chunks_;
};

}  // namespace tensorferry::stub
