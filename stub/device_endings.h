// The ends of device memory that streams may still be at work on: leases of the server's that go
// back after that work, and blocks of our own that are free after it. Nothing here waits: what
// can't be said just now is tried again. Thread-safe.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/protocol.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "local_device.h"

namespace tensorferry::stub {

using Streams = std::vector<UsedStream>;

class DeviceEndings {
 public:
  // Records one event per stream for the server; nothing where that can't be done just now.
  using MarkForServer =
      std::function<std::optional<std::vector<protocol::EventSlot>>(const Streams&)>;
  using ReleaseLease = std::function<void(std::uint64_t, std::span<const protocol::EventSlot>)>;

  // Without `mark` the server has no events of ours: a lease goes back once the work is done.
  DeviceEndings(LocalDevice& local, Arena& arena, MarkForServer mark, ReleaseLease release)
      : local_(local), arena_(arena), mark_(std::move(mark)), release_(std::move(release)) {}

  void release_lease(std::uint64_t lease, Streams streams);
  void release_block(BlockId block, Streams streams);
  // Tries again what had no event, and ends what is waited for here and is done. A driver call for
  // each such one; nothing when there is none. True while there are leases left.
  bool sweep();

 private:
  struct Lease {
    std::uint64_t lease;
    Streams streams;
  };
  struct Pending {
    std::uint64_t number;  // of a block, or of a lease
    bool is_lease;
    Streams streams;                      // not recorded yet
    std::vector<cuda::EventSlot> events;  // not done yet
  };
  bool end(const Lease& lease);
  bool end(Pending& one);
  void add(Pending one);

  LocalDevice& local_;
  Arena& arena_;
  const MarkForServer mark_;
  const ReleaseLease release_;
  std::mutex mutex_;
  std::vector<Lease> leases_;
  std::vector<Pending> pending_;
};

}  // namespace tensorferry::stub
