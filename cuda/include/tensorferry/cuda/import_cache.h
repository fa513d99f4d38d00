// Opened allocations of peers, each opened once. The key is what the allocation *is*, never where
// it lies: freeing and allocating again gives the same address to other memory.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/transport/error.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

namespace tensorferry::cuda {

struct ImportKey {
  std::uint64_t peer = 0;  // unique among all peers of this process's life (a session's number)
  Uuid device;             // where the memory lies
  std::uint64_t buffer_id = 0;  // the peer's: PointerInfo::buffer_id, or a ChunkId of its pool
  friend auto operator<=>(const ImportKey&, const ImportKey&) = default;
};

struct ImportCounts {
  std::uint64_t opened = 0;
  std::uint64_t found = 0;  // asked for again
};

// Thread-safe. Whoever got a chunk keeps it mapped as long as it holds the pointer; the cache keeps
// it until it is dropped here.
class ImportCache {
 public:
  using Opener = std::function<Result<std::shared_ptr<Chunk>>()>;
  // The chunk of that key; `open` is called when it isn't there, by one thread at a time.
  Result<std::shared_ptr<Chunk>> get(const ImportKey& key, const Opener& open);
  // nullptr where it isn't there.
  std::shared_ptr<Chunk> find(const ImportKey& key) const;
  // The owner is about to free it. False when it isn't there.
  bool drop(const ImportKey& key);
  // The peer is gone. Returns how many.
  std::size_t drop_peer(std::uint64_t peer);
  std::size_t size() const;
  ImportCounts counts() const;

 private:
  mutable std::mutex mutex_;
  std::map<ImportKey, std::shared_ptr<Chunk>> chunks_;
  ImportCounts counts_;
};

}  // namespace tensorferry::cuda
