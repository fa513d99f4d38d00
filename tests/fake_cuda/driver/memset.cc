// Fills.
#include "copy.h"

#include <cstring>

namespace fakecuda {
namespace {

struct Fill {
  Place to;
  Shape shape;
  std::uint32_t value = 0;
  unsigned element = 1;  // bytes
  int device = 0;
};

void fill_piece(const Piece& piece, const Fill& fill, std::uint64_t& phase) {
  if (fill.element == 1) {
    std::memset(piece.data, static_cast<int>(fill.value & 0xff), piece.size);
    return;
  }
  char pattern[4];
  std::memcpy(pattern, &fill.value, sizeof(pattern));
  for (std::uint64_t i = 0; i < piece.size; ++i) piece.data[i] = pattern[phase++ % fill.element];
}

CUresult run(const Fill& fill) {
  for (std::uint64_t row = 0; row < fill.shape.height; ++row) {
    std::vector<Piece> pieces;
    {
      Lock lock(driver().mutex);
      const Touch touch{fill.to.address + row * fill.to.pitch, fill.shape.width, true};
      if (CUresult bad = driver().space.reach(touch, fill.device, pieces)) return bad;
    }
    std::uint64_t phase = 0;
    for (const auto& piece : pieces) fill_piece(piece, fill, phase);
  }
  return CUDA_SUCCESS;
}

CUresult fill(Call& call, Fill what, CUstream handle, Waits waits) {
  std::shared_ptr<Stream> stream;
  if (CUresult bad = find_stream(call, handle, stream)) return bad;
  if (waits == Waits::Always)
    if (CUresult bad = refuse_while_capturing(call)) return bad;
  if (what.shape.width == 0 || what.shape.height == 0) return CUDA_SUCCESS;
  const std::uint64_t size = extent(what.to, what.shape);
  if (what.to.address % what.element != 0 || !is_valid(call, what.to.address, size))
    return CUDA_ERROR_INVALID_VALUE;
  if (!call.driver.space.contains(what.to.address) &&
      !call.driver.host.is_pinned(what.to.address, size))
    return CUDA_ERROR_INVALID_VALUE;
  what.device = stream->device;
  count(&fakecuda_counters::memsets);
  Operation operation;
  operation.what = "memset";
  operation.touches.push_back({what.to.address, size, true});
  operation.run = [what] { return run(what); };
  return enqueue(
      call, stream,
      std::move(operation));  // asynchronous to the host, in the synchronous functions too
}

CUresult line(const char* name, CUdeviceptr to, std::uint32_t value, unsigned element,
              size_t number, CUstream stream, Waits waits) {
  return api(name, Need::Context, [&](Call& call) {
    return fill(call, {{to, 0, 0}, {number * element, 1, 1}, value, element, 0}, stream, waits);
  });
}

CUresult plane(const char* name, CUdeviceptr to, size_t pitch, std::uint32_t value,
               unsigned element, size_t width, size_t height, CUstream stream, Waits waits) {
  return api(name, Need::Context, [&](Call& call) {
    if (height > 1 && pitch < width * element) return CUDA_ERROR_INVALID_VALUE;
    return fill(call, {{to, pitch, 0}, {width * element, height, 1}, value, element, 0}, stream,
                waits);
  });
}

constexpr auto kSync = Waits::Always;
constexpr auto kAsync = Waits::AsTheKindDemands;

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t number) {
  return line(__func__, to, value, 1, number, nullptr, kSync);
}
FAKECUDA_API cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t number) {
  return line(__func__, to, value, 2, number, nullptr, kSync);
}
FAKECUDA_API cuMemsetD32_v2(CUdeviceptr to, unsigned int value, size_t number) {
  return line(__func__, to, value, 4, number, nullptr, kSync);
}
FAKECUDA_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t number, CUstream stream) {
  return line(__func__, to, value, 1, number, stream, kAsync);
}
FAKECUDA_API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t number,
                              CUstream stream) {
  return line(__func__, to, value, 2, number, stream, kAsync);
}
FAKECUDA_API cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t number, CUstream stream) {
  return line(__func__, to, value, 4, number, stream, kAsync);
}
FAKECUDA_API cuMemsetD2D8_v2(CUdeviceptr to, size_t pitch, unsigned char value, size_t width,
                             size_t height) {
  return plane(__func__, to, pitch, value, 1, width, height, nullptr, kSync);
}
FAKECUDA_API cuMemsetD2D16_v2(CUdeviceptr to, size_t pitch, unsigned short value, size_t width,
                              size_t height) {
  return plane(__func__, to, pitch, value, 2, width, height, nullptr, kSync);
}
FAKECUDA_API cuMemsetD2D32_v2(CUdeviceptr to, size_t pitch, unsigned int value, size_t width,
                              size_t height) {
  return plane(__func__, to, pitch, value, 4, width, height, nullptr, kSync);
}
FAKECUDA_API cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char value, size_t width,
                               size_t height, CUstream stream) {
  return plane(__func__, to, pitch, value, 1, width, height, stream, kAsync);
}
FAKECUDA_API cuMemsetD2D16Async(CUdeviceptr to, size_t pitch, unsigned short value, size_t width,
                                size_t height, CUstream stream) {
  return plane(__func__, to, pitch, value, 2, width, height, stream, kAsync);
}
FAKECUDA_API cuMemsetD2D32Async(CUdeviceptr to, size_t pitch, unsigned int value, size_t width,
                                size_t height, CUstream stream) {
  return plane(__func__, to, pitch, value, 4, width, height, stream, kAsync);
}
