// The driver's own types, as far as our headers show them. <cuda.h> says the same names (CUstream,
// CUevent, CUcontext, CUdeviceptr), so that both can be included together.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

struct CUctx_st;
struct CUevent_st;
struct CUstream_st;

namespace tensorferry::cuda {

using ContextHandle = CUctx_st*;
using EventHandle = CUevent_st*;
using StreamHandle = CUstream_st*;
// An address on a device, which only the driver may follow; or one of host memory, where the driver
// takes either.
using DevicePtr = std::uint64_t;
// An exported allocation or event: opaque bytes that any channel may carry.
using IpcHandle = std::array<std::byte, 64>;

// The same bytes, valid as long as the handle.
inline std::string_view as_text(const IpcHandle& handle) noexcept {
  return {reinterpret_cast<const char*>(handle.data()), handle.size()};
}

inline DevicePtr device_ptr(const void* address) noexcept {
  return reinterpret_cast<std::uintptr_t>(address);
}

// The two streams that have no handle; the same values as DLPack's and CUDA array interface's 1, 2.
inline StreamHandle legacy_stream() noexcept {
  return reinterpret_cast<StreamHandle>(std::uintptr_t{1});  // NOLINT(performance-no-int-to-ptr)
}
inline StreamHandle per_thread_stream() noexcept {
  return reinterpret_cast<StreamHandle>(std::uintptr_t{2});  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace tensorferry::cuda
