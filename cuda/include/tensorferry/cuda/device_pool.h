// A pool of device memory that peers can map: the server's, one for each device and trust domain
// (whoever maps a chunk can write all of it).
//
// Words. A *chunk* is one mapping (chunk.h); the pool grows by chunks. A *block* is a range of one.
// A block has *holders*; when the last one has let go, it is free. A holder may let go *after*
// events: then it counts until the device has passed them, since whoever dropped a tensor may still
// have kernels that read it. What a dead peer held is in *quarantine* until its end is certain.
//
//   chunk  | block | free | block        | free ...      offsets are multiples of 512 bytes
//
// All books are in private memory. When nobody holds anything, bytes_in_use() == 0.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace tensorferry::cuda {

using ChunkId = std::uint32_t;        // of one pool; never reused
using DeviceBlockId = std::uint64_t;  // of one pool; never reused, so a stale one is noticed
using PeerId = std::uint64_t;         // whoever lends knows its peers by number

struct DevicePoolOptions {
  ShareMode mode = ShareMode::Vmm;
  std::size_t chunk_bytes = 64 << 20;  // smallest chunk that is made
  // Of all chunks together, at most kLargestChunk; reaching it is an error.
  std::size_t max_bytes = std::size_t{1} << 30;
};

struct DeviceBlock {
  DeviceBlockId id = 0;
  ChunkId chunk = 0;
  std::uint64_t offset = 0;  // in the chunk; a multiple of 512, of 2 MiB from 2 MiB on
  std::size_t bytes = 0;     // as asked
  DevicePtr ptr = 0;         // in this process
};

struct DevicePoolStatistics {
  std::size_t bytes_in_use = 0;  // blocks with holders, as reserved
  std::size_t blocks_in_use = 0;
  std::size_t waiting = 0;      // holders that have let go after events that aren't done
  std::size_t quarantined = 0;  // holders that are dead peers
  std::size_t chunk_bytes = 0;  // of all chunks that still exist, withdrawn ones too
  std::size_t chunks = 0;
  std::size_t peak_bytes = 0;  // of bytes_in_use
};

// Thread-safe: one mutex, never held while a chunk is made. In all of it only making a chunk
// blocks.
class DevicePool {
 public:
  DevicePool(ContextPtr context, DevicePoolOptions options);
  ~DevicePool();
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;

  // A block of `bytes` with one holder. Looks whether what was let go after events is free by now.
  // Makes a chunk only when it has to. Zero bytes are the caller's business: error InvalidArgument.
  // Errors: gpu_oom(pool) and gpu_oom(device) say what was asked, used and allowed.
  Result<DeviceBlock> allocate(std::size_t bytes);
  // The same but never makes a chunk; nullopt where nothing is free.
  std::optional<DeviceBlock> try_allocate(std::size_t bytes);

  // One holder more or less. False for an id that names no live block (nothing happens then).
  bool add_holder(DeviceBlockId id, std::uint32_t count = 1);
  bool release(DeviceBlockId id);
  // One holder less when all the events are done; then `done` is called, once, from whichever call
  // of the pool sees it, without the lock. Nobody may record the events anew before that. `by` is
  // the peer that recorded them.
  using Done = std::move_only_function<void()>;
  bool release_after(DeviceBlockId id, std::vector<EventHandle> events, PeerId by, Done done = {});

  // `peer` is dying: it holds the block, and may still write to it.
  bool quarantine(DeviceBlockId id, PeerId peer);
  // `peer` is dying: events that it recorded may never be done, so what waits for them waits for
  // end_quarantine() instead. Their `done` is never called: they are to be retired.
  void quarantine(PeerId peer);
  // `peer` is gone for certain (its process was waited for): what it held is let go.
  void end_quarantine(PeerId peer);

  // Looks whether what was let go after events is free by now. Returns how many still wait.
  std::size_t poll();

  std::optional<DeviceBlock> lookup(DeviceBlockId id) const;
  // The live block that has the address in it.
  std::optional<DeviceBlock> find(DevicePtr address) const;
  // nullptr where there is no such chunk. Peers are given a chunk when they first need it.
  std::shared_ptr<Chunk> chunk(ChunkId id) const;
  std::vector<std::pair<ChunkId, std::shared_ptr<Chunk>>> chunks() const;
  // Takes chunks out of which no block is held, while more than `keep_bytes` of such would be left.
  // Nothing is allocated from them any more. Their memory goes when the last pointer does: hold it
  // until all peers have said that they unmapped the chunk.
  std::vector<std::pair<ChunkId, std::shared_ptr<Chunk>>> withdraw_idle(std::size_t keep_bytes);

  std::size_t bytes_in_use() const noexcept;
  DevicePoolStatistics statistics() const;
  const ContextPtr& context() const noexcept;
  const DevicePoolOptions& options() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry::cuda
