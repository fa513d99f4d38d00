#include "gpu_arenas.h"

namespace tensorferry::server {

Result<std::shared_ptr<Segment>> make_device_segment(SegmentId id, Gpu& gpu, std::size_t bytes) {
  auto chunk = cuda::Chunk::create(gpu.context(), bytes, gpu.share_mode());
  if (!chunk) return std::unexpected(chunk.error());
  auto* data = reinterpret_cast<std::byte*>((*chunk)->base());
  return Segment::adopt(id, data, (*chunk)->bytes(), *chunk);
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
  auto make = [gpu = *gpu, segments = segments_](std::size_t bytes) {
    return make_device_segment(segments->issue(), *gpu, bytes);
  };
  GpuArena made{*gpu, std::make_shared<HostArena>(make, (*gpu)->name(), options_, watch_)};
  arenas_.emplace(ordinal, made);
  if (opened_) opened_(**gpu);
  return made;
}

void GpuArenas::trim() {
  std::vector<std::shared_ptr<HostArena>> idle;
  {
    std::scoped_lock lock(mutex_);
    for (const auto& [ordinal, arena] : arenas_) {
      // A legacy chunk has to be closed everywhere before it is freed.
      if (arena.gpu->share_mode() == cuda::ShareMode::Vmm) idle.push_back(arena.blocks);
    }
  }
  for (const auto& blocks : idle) blocks->arena().trim();
}

std::vector<GpuStatistics> GpuArenas::statistics() const {
  std::scoped_lock lock(mutex_);
  std::vector<GpuStatistics> result;
  for (const auto& [ordinal, arena] : arenas_) {
    const ArenaStatistics use = arena.blocks->arena().statistics();
    const cuda::RungChoice& chosen = arena.gpu->transport();
    result.push_back({ordinal, to_string(arena.gpu->device().uuid),
                      std::string(to_string(chosen.rung)), chosen.reason, use.bytes_in_use,
                      use.segment_bytes, use.peak_segment_bytes});
  }
  return result;
}

}  // namespace tensorferry::server
