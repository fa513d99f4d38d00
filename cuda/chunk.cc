#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/gpu_error.h>

#include <string>

#include "chunk_kinds.h"

namespace tensorferry::cuda {

Result<std::shared_ptr<Chunk>> Chunk::create(ContextPtr context, std::size_t bytes,
                                             ShareMode mode) {
  if (bytes > kLargestChunk)
    return gpu_failure(GpuErrorKind::OutOfDeviceMemory,
                       "no device has " + std::to_string(bytes) + " bytes");
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  return mode == ShareMode::Vmm ? create_vmm_chunk(std::move(context), bytes)
                                : create_legacy_chunk(std::move(context), bytes);
}

Result<std::shared_ptr<Chunk>> Chunk::open(ContextPtr context, ChunkHandle handle,
                                           std::size_t bytes) {
  const RelaxedCapture relaxed;
  auto guard = ContextGuard::enter(*context);
  if (!guard) return std::unexpected(guard.error());
  if (auto* fd = std::get_if<UniqueFd>(&handle))
    return open_vmm_chunk(std::move(context), std::move(*fd), bytes);
  return open_legacy_chunk(std::move(context), std::get<IpcHandle>(handle), bytes);
}

std::shared_ptr<Segment> as_segment(SegmentId id, std::shared_ptr<Chunk> chunk) {
  auto* base = reinterpret_cast<std::byte*>(chunk->base());  // NOLINT(performance-no-int-to-ptr)
  const std::size_t bytes = chunk->bytes();
  return Segment::adopt(id, base, bytes, std::move(chunk));
}

}  // namespace tensorferry::cuda
