#include "gpu_arenas.h"

namespace tensorferry::server {

Result<std::shared_ptr<Segment>> make_device_segment(SegmentId id, Gpu& gpu, std::size_t bytes,
                                                     cuda::ShareMode mode) {
  auto chunk = cuda::Chunk::create(gpu.context(), bytes, mode);
  if (!chunk) return std::unexpected(chunk.error());
  return cuda::as_segment(id, std::move(*chunk));
}

const cuda::Chunk& chunk_of(const Segment& segment) {
  expects(segment.keeper() != nullptr, "a segment of a GPU's lies in a chunk");
  return *static_cast<const cuda::Chunk*>(segment.keeper().get());
}

Result<GpuArena> GpuArenas::open(int ordinal) {
  std::scoped_lock lock(mutex_);
  if (auto it = arenas_.find(ordinal); it != arenas_.end()) return it->second;
  auto gpu = gpus_->open(ordinal);
  if (!gpu) return std::unexpected(gpu.error());
  auto asked = options_.transport ? *options_.transport : cuda::gpu_transport_from_environment();
  if (!asked) return std::unexpected(asked.error());
  auto sharing = std::make_shared<GpuSharing>(**gpu, *asked);
  auto make = [gpu = *gpu, sharing, segments = segments_](std::size_t bytes) {
    return make_device_segment(segments->issue(), *gpu, bytes, sharing->mode());
  };
  GpuArena made{*gpu, sharing,
                std::make_shared<HostArena>(make, (*gpu)->name(), options_.arena, watch_)};
  arenas_.emplace(ordinal, made);
  if (opened_) opened_(**gpu, sharing->best());
  return made;
}

void GpuArenas::trim() {
  std::vector<std::shared_ptr<HostArena>> idle;
  {
    std::scoped_lock lock(mutex_);
    for (const auto& [ordinal, arena] : arenas_) {
      // A legacy chunk has to be closed everywhere before it is freed.
      const bool closed_first =
          arena.sharing->mode() == cuda::ShareMode::LegacyIpc && arena.sharing->is_shared();
      if (!closed_first) idle.push_back(arena.blocks);
    }
  }
  for (const auto& blocks : idle) blocks->arena().trim();
}

std::vector<GpuStatistics> GpuArenas::statistics() const {
  std::scoped_lock lock(mutex_);
  std::vector<GpuStatistics> result;
  for (const auto& [ordinal, arena] : arenas_) {
    const ArenaStatistics use = arena.blocks->arena().statistics();
    const cuda::RungChoice& best = arena.sharing->best();
    result.push_back({ordinal, to_string(arena.gpu->device().uuid),
                      std::string(to_string(best.rung)), best.reason, arena.sharing->differing(),
                      arena.sharing->changes(), use.bytes_in_use, use.segment_bytes,
                      use.peak_segment_bytes});
  }
  return result;
}

}  // namespace tensorferry::server
