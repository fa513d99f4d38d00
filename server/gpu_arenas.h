// The arenas of one model on GPUs: one for each device that its tensors come from, made when the
// first one comes.
#pragma once

#include <tensorferry/server/statistics.h>
#include <tensorferry/transport/arena.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "gpu.h"
#include "host_arena.h"
#include "segment_authority.h"

namespace tensorferry::server {

struct GpuArena {
  std::shared_ptr<Gpu> gpu;
  std::shared_ptr<HostArena> blocks;
};

// Thread-safe.
class GpuArenas {
 public:
  // `opened` hears of each GPU that comes into use.
  using Opened = std::function<void(Gpu& gpu)>;

  GpuArenas(std::shared_ptr<Gpus> gpus, std::shared_ptr<SegmentAuthority> segments,
            ArenaOptions options, std::shared_ptr<IdleWatch> watch, Opened opened = {})
      : gpus_(std::move(gpus)),
        segments_(std::move(segments)),
        options_(options),
        watch_(std::move(watch)),
        opened_(std::move(opened)) {}

  // Errors: that there is no such device, or no driver.
  Result<GpuArena> open(int ordinal);
  // Of each arena that there is.
  std::vector<GpuStatistics> statistics() const;
  // Gives idle chunks back where stubs may unmap them after us.
  void trim();
  const ArenaOptions& options() const noexcept { return options_; }

 private:
  const std::shared_ptr<Gpus> gpus_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const ArenaOptions options_;
  const std::shared_ptr<IdleWatch> watch_;
  const Opened opened_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<int, GpuArena> arenas_;
};

// One more segment of device memory that a stub can map; `chunk_of` gives what it lies in.
Result<std::shared_ptr<Segment>> make_device_segment(SegmentId id, Gpu& gpu, std::size_t bytes);
const cuda::Chunk& chunk_of(const Segment& segment);

}  // namespace tensorferry::server
