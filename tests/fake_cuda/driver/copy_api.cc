// The many names under which the driver copies.
#include "copy.h"
#include "memory.h"

using namespace fakecuda;

namespace {

enum class Where : std::uint8_t { Any, Host, Device };

bool fits(Call& call, std::uint64_t address, Where where) {
  if (where == Where::Any) return true;
  // Pinned memory has a device address too, which is the same number.
  const bool is_device = call.driver.space.contains(address);
  if (where == Where::Host) return !is_device;
  return is_device || call.driver.host.find(address) != nullptr;
}

struct Sides {
  Where to, from;
};

CUresult linear(const char* name, CUdeviceptr to, CUdeviceptr from, size_t size, CUstream handle,
                Waits waits, Sides sides) {
  return api(name, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    if (size != 0 && (!fits(call, to, sides.to) || !fits(call, from, sides.from)))
      return CUDA_ERROR_INVALID_VALUE;
    return copy(call, stream, {to, 0, 0}, {from, 0, 0}, {size, 1, 1}, waits);
  });
}

CUdeviceptr number(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

constexpr Sides kAny{Where::Any, Where::Any}, kHtoD{Where::Device, Where::Host},
    kDtoH{Where::Host, Where::Device}, kDtoD{Where::Device, Where::Device};
constexpr auto kSync = Waits::Always;
constexpr auto kAsync = Waits::AsTheKindDemands;

// false: arrays, or a kind that the address isn't.
bool pick(Call& call, CUmemorytype type, const void* host, CUdeviceptr device,
          std::uint64_t& address) {
  if (type == CU_MEMORYTYPE_ARRAY) return false;
  address = type == CU_MEMORYTYPE_HOST ? number(host) : device;
  return type == CU_MEMORYTYPE_UNIFIED ||
         fits(call, address, type == CU_MEMORYTYPE_HOST ? Where::Host : Where::Device);
}

CUresult plane(const char* name, const CUDA_MEMCPY2D* what, CUstream handle, Waits waits) {
  return api(name, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    Place to, from;
    if (what == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    if (!pick(call, what->srcMemoryType, what->srcHost, what->srcDevice, from.address) ||
        !pick(call, what->dstMemoryType, what->dstHost, what->dstDevice, to.address))
      return CUDA_ERROR_INVALID_VALUE;
    const bool pitched = what->Height > 1;
    from.pitch = what->srcPitch != 0 ? what->srcPitch : what->WidthInBytes;
    to.pitch = what->dstPitch != 0 ? what->dstPitch : what->WidthInBytes;
    if (pitched && (from.pitch < what->WidthInBytes + what->srcXInBytes ||
                    to.pitch < what->WidthInBytes + what->dstXInBytes))
      return CUDA_ERROR_INVALID_VALUE;
    from.address += what->srcY * from.pitch + what->srcXInBytes;
    to.address += what->dstY * to.pitch + what->dstXInBytes;
    return copy(call, stream, to, from, {what->WidthInBytes, what->Height, 1}, waits);
  });
}

CUresult box(const char* name, const CUDA_MEMCPY3D* what, CUstream handle, Waits waits) {
  return api(name, Need::Context, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    Place to, from;
    if (what == nullptr || what->srcLOD != 0 || what->dstLOD != 0) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = find_stream(call, handle, stream)) return bad;
    if (!pick(call, what->srcMemoryType, what->srcHost, what->srcDevice, from.address) ||
        !pick(call, what->dstMemoryType, what->dstHost, what->dstDevice, to.address))
      return CUDA_ERROR_INVALID_VALUE;
    from.pitch = what->srcPitch != 0 ? what->srcPitch : what->WidthInBytes;
    to.pitch = what->dstPitch != 0 ? what->dstPitch : what->WidthInBytes;
    if (from.pitch < what->WidthInBytes + what->srcXInBytes ||
        to.pitch < what->WidthInBytes + what->dstXInBytes)
      return CUDA_ERROR_INVALID_VALUE;
    const auto source_height = what->srcHeight != 0 ? what->srcHeight : what->Height;
    const auto target_height = what->dstHeight != 0 ? what->dstHeight : what->Height;
    if (what->Depth > 1 &&
        (source_height < what->Height + what->srcY || target_height < what->Height + what->dstY))
      return CUDA_ERROR_INVALID_VALUE;
    from.slice = from.pitch * source_height;
    to.slice = to.pitch * target_height;
    from.address += what->srcZ * from.slice + what->srcY * from.pitch + what->srcXInBytes;
    to.address += what->dstZ * to.slice + what->dstY * to.pitch + what->dstXInBytes;
    return copy(call, stream, to, from, {what->WidthInBytes, what->Height, what->Depth}, waits);
  });
}

}  // namespace

FAKECUDA_API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size) {
  return linear(__func__, to, from, size, nullptr, kSync, kAny);
}
FAKECUDA_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
  return linear(__func__, to, number(from), size, nullptr, kSync, kHtoD);
}
FAKECUDA_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t size) {
  return linear(__func__, number(to), from, size, nullptr, kSync, kDtoH);
}
FAKECUDA_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
  return linear(__func__, to, from, size, nullptr, kSync, kDtoD);
}
FAKECUDA_API cuMemcpyPeer(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t size) {
  return linear(__func__, to, from, size, nullptr, kSync, kDtoD);
}
FAKECUDA_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  return linear(__func__, to, from, size, stream, kAsync, kAny);
}
FAKECUDA_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
  return linear(__func__, to, number(from), size, stream, kAsync, kHtoD);
}
FAKECUDA_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream stream) {
  return linear(__func__, number(to), from, size, stream, kAsync, kDtoH);
}
FAKECUDA_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  return linear(__func__, to, from, size, stream, kAsync, kDtoD);
}
FAKECUDA_API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t size,
                               CUstream stream) {
  return linear(__func__, to, from, size, stream, kAsync, kDtoD);
}
FAKECUDA_API cuMemcpy2D_v2(const CUDA_MEMCPY2D* what) {
  return plane(__func__, what, nullptr, kSync);
}
FAKECUDA_API cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* what) {
  return plane(__func__, what, nullptr, kSync);
}
FAKECUDA_API cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* what, CUstream stream) {
  return plane(__func__, what, stream, kAsync);
}
FAKECUDA_API cuMemcpy3D_v2(const CUDA_MEMCPY3D* what) {
  return box(__func__, what, nullptr, kSync);
}
FAKECUDA_API cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* what, CUstream stream) {
  return box(__func__, what, stream, kAsync);
}
