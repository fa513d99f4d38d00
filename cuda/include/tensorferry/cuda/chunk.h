// A chunk: a piece of device memory that another process can map. Chunks are large and few: they
// are exported once to each peer, and tensors are ranges of them, so that no request makes or opens
// one.
//
//   Vmm        cuMemCreate, exported as a descriptor. The memory lives until the last mapping,
//              handle and descriptor of it is gone: any order of ends is safe.
//   LegacyIpc  cuMemAlloc, exported as 64 bytes, for peers in the same PID namespace. Who opened it
//              closes it before its owner frees it.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/segment.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <variant>

namespace tensorferry::cuda {

// More than any device has: a size beyond it is refused before it is rounded up.
inline constexpr std::size_t kLargestChunk = std::size_t{1} << 46;

enum class ShareMode : std::uint8_t { Vmm = 0, LegacyIpc = 1 };

// What names a chunk to one peer. The descriptor is close-on-exec.
using ChunkHandle = std::variant<UniqueFd, IpcHandle>;

// One mapping of a chunk, readable and writable from its device. Immutable after construction; any
// thread. The destructor unmaps, and frees or closes; work on the memory has to be done by then.
// Making, exporting, opening and destroying may wait for the device, so they are no part of a
// request; they don't disturb a capture.
class Chunk {
 public:
  // `bytes` is rounded up to what the device maps (2 MiB). Errors: gpu_oom(device) with the sizes,
  // gpu_unsupported where the device or the driver refuses the mode.
  static Result<std::shared_ptr<Chunk>> create(ContextPtr context, std::size_t bytes,
                                               ShareMode mode);
  // Maps a peer's chunk of exactly `bytes`. Takes the handle over. Errors: gpu_pidns_mismatch,
  // gpu_p2p_unavailable, gpu_oom(device), gpu_driver for a handle that names no such chunk.
  static Result<std::shared_ptr<Chunk>> open(ContextPtr context, ChunkHandle handle,
                                             std::size_t bytes);

  virtual ~Chunk() = default;
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  // A new handle for one peer. Only of a chunk that was created here.
  virtual Result<ChunkHandle> export_handle() const = 0;

  ShareMode mode() const noexcept { return mode_; }
  DevicePtr base() const noexcept { return base_; }
  std::size_t bytes() const noexcept { return bytes_; }
  const ContextPtr& context() const noexcept { return context_; }
  // True if [offset, offset + bytes) lies inside; never overflows.
  bool contains(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    return offset <= bytes_ && bytes <= bytes_ - offset;
  }

 protected:
  Chunk(ContextPtr context, ShareMode mode, DevicePtr base, std::size_t bytes) noexcept
      : context_(std::move(context)), base_(base), bytes_(bytes), mode_(mode) {}

 private:
  ContextPtr context_;
  DevicePtr base_;
  std::size_t bytes_;
  ShareMode mode_;
};

// What an Arena manages: the segment is the chunk's bytes, and holds it.
std::shared_ptr<Segment> as_segment(SegmentId id, std::shared_ptr<Chunk> chunk);

}  // namespace tensorferry::cuda
