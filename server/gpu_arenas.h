// The arenas of one model on GPUs: one for each device that its tensors come from, made when the
// first one comes.
#pragma once

#include <tensorferry/server/statistics.h>
#include <tensorferry/transport/arena.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "gpu_sharing.h"
#include "host_arena.h"
#include "segment_authority.h"

namespace tensorferry::server {

struct GpuArena {
  std::shared_ptr<Gpu> gpu;
  std::shared_ptr<GpuSharing> sharing;
  std::shared_ptr<HostArena> blocks;
};

struct GpuArenaOptions {
  ArenaOptions arena;
  std::optional<cuda::GpuTransport> transport;  // none: what the environment asks
};

// Thread-safe.
class GpuArenas {
 public:
  // Told of each GPU that comes into use, and how the model's memory there is shared.
  using Opened = std::function<void(const Gpu&, const cuda::RungChoice&)>;

  GpuArenas(std::shared_ptr<Gpus> gpus, std::shared_ptr<SegmentAuthority> segments,
            GpuArenaOptions options, std::shared_ptr<IdleWatch> watch, Opened opened = {})
      : gpus_(std::move(gpus)),
        segments_(std::move(segments)),
        options_(options),
        watch_(std::move(watch)),
        opened_(std::move(opened)) {}

  // Errors: that there is no such device, or no driver; a TENSORFERRY_GPU_TRANSPORT that is none.
  Result<GpuArena> open(int ordinal);
  // Of each arena that there is.
  std::vector<GpuStatistics> statistics() const;
  // Gives idle chunks back where stubs may unmap them after us.
  void trim();
  const ArenaOptions& options() const noexcept { return options_.arena; }

 private:
  const std::shared_ptr<Gpus> gpus_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const GpuArenaOptions options_;
  const std::shared_ptr<IdleWatch> watch_;
  const Opened opened_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<int, GpuArena> arenas_;
};

// One more segment of device memory; `chunk_of` gives what it lies in.
Result<std::shared_ptr<Segment>> make_device_segment(SegmentId id, Gpu& gpu, std::size_t bytes,
                                                     cuda::ShareMode mode);
const cuda::Chunk& chunk_of(const Segment& segment);

}  // namespace tensorferry::server
