// The one place that copies payload on a device. Copies are counted by kind (transport/copy.h) when
// they have been put on the stream.
//
// The context of the stream is current; addresses may be of any device, or of host memory. From or
// to host memory that isn't pinned a "copy" waits for the device.
#pragma once

#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace tensorferry::cuda {

// Puts a copy of `bytes` on the stream; nothing, and no count, for 0. `kind` is what the caller
// knows the addresses to be. Errors: gpu_sticky, gpu_driver.
Result<void> copy_async(DevicePtr to, DevicePtr from, std::size_t bytes, StreamHandle stream,
                        CopyKind kind);

// A strided array as rows of `width` bytes: `height` of them `pitch` bytes apart make a slice, and
// `depth` slices lie `slice_pitch` bytes apart. Packed in that order it is the array in C order.
struct Gather {
  std::size_t width = 0, height = 1, depth = 1;
  std::size_t pitch = 0, slice_pitch = 0;  // slice_pitch is a multiple of pitch
  std::size_t bytes() const noexcept { return width * height * depth; }
  bool packed() const noexcept { return height == 1 && depth == 1; }
};
// The gather that packs the array, or nothing where one copy of at most three dimensions can't:
// then the framework's own contiguous() can. Strides in bytes; those of axes of length 1 don't
// matter.
std::optional<Gather> plan_gather(std::span<const std::int64_t> shape,
                                  std::span<const std::int64_t> strides_bytes,
                                  std::size_t element_bytes) noexcept;
// Puts the packing copy on the stream, counted as one copy.
Result<void> gather_async(DevicePtr to, DevicePtr from, const Gather& gather, StreamHandle stream,
                          CopyKind kind);

}  // namespace tensorferry::cuda
