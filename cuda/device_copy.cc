#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/transport/trace.h>

#include <array>
#include <limits>

#include "driver_call.h"

namespace tensorferry::cuda {
namespace {

// What a device's copy engine takes as the distance of two rows (CU_DEVICE_ATTRIBUTE_MAX_PITCH).
constexpr std::int64_t kMaxPitch = std::numeric_limits<std::int32_t>::max();

struct Axis {
  std::int64_t length;
  std::int64_t stride;
};

// The axes that matter, outermost first: those of length 1 left out, neighbours joined where one
// continues the other. At most three are wanted.
struct Axes {
  std::array<Axis, 3> axis{};
  std::size_t count = 0;
  bool too_many = false;

  void add(Axis next) {
    if (next.length == 1) return;
    if (count > 0 && axis[count - 1].stride == next.length * next.stride) {
      axis[count - 1] = {axis[count - 1].length * next.length, next.stride};
    } else if (count < axis.size()) {
      axis[count++] = next;
    } else {
      too_many = true;
    }
  }
};

Phase phase_of(CopyKind kind) noexcept {
  switch (kind) {
    case CopyKind::DeviceToHost:
      return Phase::CopyD2H;
    case CopyKind::HostToDevice:
      return Phase::CopyH2D;
    default:
      return Phase::CopyD2D;
  }
}

}  // namespace

Result<void> copy_async(DevicePtr to, DevicePtr from, std::size_t bytes, StreamHandle stream,
                        CopyKind kind) {
  if (bytes == 0) return {};
  Span span(phase_of(kind), kOfEnclosingSpan, bytes);
  auto done = call<"cuMemcpyAsync">(to, from, bytes, stream);
  if (done) count_copy(bytes, kind);
  return done;
}

std::optional<Gather> plan_gather(std::span<const std::int64_t> shape,
                                  std::span<const std::int64_t> strides_bytes,
                                  std::size_t element_bytes) noexcept {
  Axes axes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 0) return Gather{};
    axes.add({shape[i], strides_bytes[i]});
  }
  if (axes.too_many) return std::nullopt;
  Gather gather{.width = element_bytes};
  std::size_t rest = axes.count;
  if (rest > 0 && axes.axis[rest - 1].stride == static_cast<std::int64_t>(element_bytes))
    gather.width *= static_cast<std::size_t>(axes.axis[--rest].length);
  if (rest == 0) return gather;
  if (rest > 2) return std::nullopt;

  const Axis rows = axes.axis[rest - 1];
  if (rows.stride < static_cast<std::int64_t>(gather.width) || rows.stride > kMaxPitch)
    return std::nullopt;
  gather.height = static_cast<std::size_t>(rows.length);
  gather.pitch = static_cast<std::size_t>(rows.stride);
  if (rest == 1) return gather;

  const Axis slices = axes.axis[0];
  if (slices.stride % rows.stride != 0 || slices.stride / rows.stride < rows.length)
    return std::nullopt;
  gather.depth = static_cast<std::size_t>(slices.length);
  gather.slice_pitch = static_cast<std::size_t>(slices.stride);
  return gather;
}

Result<void> gather_async(DevicePtr to, DevicePtr from, const Gather& gather, StreamHandle stream,
                          CopyKind kind) {
  if (gather.packed()) return copy_async(to, from, gather.bytes(), stream, kind);
  Span span(phase_of(kind), kOfEnclosingSpan, gather.bytes());
  abi::Copy3D copy;
  copy.from.device = from;
  copy.from.pitch = gather.pitch;
  copy.from.height = gather.depth > 1 ? gather.slice_pitch / gather.pitch : gather.height;
  copy.to.device = to;
  copy.to.pitch = gather.width;
  copy.to.height = gather.height;
  copy.width_bytes = gather.width;
  copy.height = gather.height;
  copy.depth = gather.depth;
  auto done = call<"cuMemcpy3DAsync_v2">(static_cast<const abi::Copy3D*>(&copy), stream);
  if (done) count_copy(gather.bytes(), kind);
  return done;
}

}  // namespace tensorferry::cuda
