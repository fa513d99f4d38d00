// The entry points of the driver that we use: exact names (the suffix is part of the ABI that the
// types belong to) and our own declarations of their types, so that no CUDA header is needed to
// build. tests/cuda/driver_abi_test.cc compares all of it with the real <cuda.h>.
#pragma once

#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/handles.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace tensorferry::cuda {

// ------------------------------------------------------------------------------ values and structs
namespace abi {

// CUresult
inline constexpr int kSuccess = 0;
inline constexpr int kOutOfMemory = 2;
inline constexpr int kNotInitialized = 3;
inline constexpr int kDeinitialized = 4;
inline constexpr int kStubLibrary = 34;
inline constexpr int kNoDevice = 100;
inline constexpr int kInvalidContext = 201;
inline constexpr int kAlreadyMapped = 208;
inline constexpr int kPeerAccessUnsupported = 217;
inline constexpr int kNotReady = 600;
inline constexpr int kContextIsDestroyed = 709;
inline constexpr int kTooManyPeers = 711;
inline constexpr int kHostMemoryAlreadyRegistered = 712;
inline constexpr int kNotPermitted = 800;
inline constexpr int kNotSupported = 801;
inline constexpr int kFirstCapture = 900;  // CUDA_ERROR_STREAM_CAPTURE_...
inline constexpr int kLastCapture = 908;

// CUdevice_attribute
inline constexpr int kIntegrated = 18;
inline constexpr int kUnifiedAddressing = 41;
inline constexpr int kHostRegisterSupported = 99;
inline constexpr int kVirtualMemorySupported = 102;
inline constexpr int kPosixFdSupported = 103;
inline constexpr int kIpcEventSupported = 125;

// CUpointer_attribute
inline constexpr int kPointerContext = 1;
inline constexpr int kPointerMemoryType = 2;
inline constexpr int kPointerBufferId = 7;
inline constexpr int kPointerIsManaged = 8;
inline constexpr int kPointerDeviceOrdinal = 9;
inline constexpr int kPointerLegacyIpcCapable = 10;
inline constexpr int kPointerAllowedHandleTypes = 14;
inline constexpr int kPointerMempoolHandle = 17;
// CUmemorytype
inline constexpr unsigned kMemoryTypeHost = 1;
inline constexpr unsigned kMemoryTypeDevice = 2;
inline constexpr unsigned kMemoryTypeUnified = 4;

inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kEventInterprocess = 4;
inline constexpr unsigned kIpcLazyPeerAccess = 1;
inline constexpr unsigned kHostRegisterPortable = 1;
inline constexpr unsigned kHostRegisterDeviceMap = 2;
inline constexpr int kCaptureModeRelaxed = 2;
inline constexpr int kCaptureStatusNone = 0;
inline constexpr int kAllocationPinned = 1;
inline constexpr int kHandlePosixFd = 1;
inline constexpr int kLocationDevice = 1;
inline constexpr int kAccessReadWrite = 3;
inline constexpr int kGranularityMinimum = 0;

using AllocationHandle = unsigned long long;  // CUmemGenericAllocationHandle

struct Location {  // CUmemLocation
  int type = kLocationDevice;
  int id = 0;
};
struct AllocationProp {  // CUmemAllocationProp
  int type = kAllocationPinned;
  int requested_handle_types = 0;
  Location location;
  void* win32_handle_meta_data = nullptr;
  struct {
    unsigned char compression_type = 0, gpu_direct_rdma_capable = 0;
    unsigned short usage = 0;
    unsigned char reserved[4] = {};
  } flags;
};
struct AccessDesc {  // CUmemAccessDesc
  Location location;
  int flags = kAccessReadWrite;
};
struct Copy3DSide {
  std::size_t x_bytes = 0, y = 0, z = 0, level = 0;
  unsigned memory_type = kMemoryTypeUnified;
  const void* host = nullptr;
  DevicePtr device = 0;
  void* array = nullptr;
  void* reserved = nullptr;
  std::size_t pitch = 0, height = 0;
};
struct Copy3D {  // CUDA_MEMCPY3D
  Copy3DSide from, to;
  std::size_t width_bytes = 0, height = 0, depth = 0;
};

}  // namespace abi

// ------------------------------------------------------------------------------------ entry points
template <std::size_t N>
struct EntryName {
  char text[N]{};
  // NOLINTNEXTLINE(google-explicit-constructor): a literal is the name
  consteval EntryName(const char (&name)[N]) { std::copy_n(name, N, text); }
};

// A pointer to the function of that name; null until it is found, and where the driver lacks it.
template <EntryName Name, class Signature>
struct Entry {
  static constexpr const char* kName = Name.text;
  Signature* function = nullptr;
};

template <class... Each>
struct EntryTable : Each... {
  // Calls `visit(entry)` for each.
  template <class Visit>
  void for_each(Visit&& visit) {
    (visit(static_cast<Each&>(*this)), ...);
  }
};

// The function of a name in a table: function_of<"cuInit">(api).
template <EntryName Name, class Signature>
constexpr Signature* function_of(const Entry<Name, Signature>& found) noexcept {
  return found.function;
}

using abi::AllocationHandle;
// clang-format off
using DriverEntries = EntryTable<
    Entry<"cuInit", int(unsigned)>,
    Entry<"cuDriverGetVersion", int(int*)>,
    Entry<"cuGetErrorName", int(int, const char**)>,
    Entry<"cuDeviceGetCount", int(int*)>,
    Entry<"cuDeviceGet", int(int*, int)>,
    Entry<"cuDeviceGetUuid_v2", int(Uuid*, int)>,
    Entry<"cuDeviceGetAttribute", int(int*, int, int)>,
    Entry<"cuDeviceCanAccessPeer", int(int*, int, int)>,
    Entry<"cuDevicePrimaryCtxRetain", int(ContextHandle*, int)>,
    Entry<"cuDevicePrimaryCtxRelease_v2", int(int)>,
    Entry<"cuDevicePrimaryCtxGetState", int(int, unsigned*, int*)>,
    Entry<"cuCtxPushCurrent_v2", int(ContextHandle)>,
    Entry<"cuCtxPopCurrent_v2", int(ContextHandle*)>,
    Entry<"cuCtxGetCurrent", int(ContextHandle*)>,
    Entry<"cuCtxGetStreamPriorityRange", int(int*, int*)>,
    Entry<"cuCtxRecordEvent", int(ContextHandle, EventHandle)>,
    Entry<"cuStreamCreateWithPriority", int(StreamHandle*, unsigned, int)>,
    Entry<"cuStreamDestroy_v2", int(StreamHandle)>,
    Entry<"cuStreamWaitEvent", int(StreamHandle, EventHandle, unsigned)>,
    Entry<"cuStreamIsCapturing", int(StreamHandle, int*)>,
    Entry<"cuThreadExchangeStreamCaptureMode", int(int*)>,
    Entry<"cuEventCreate", int(EventHandle*, unsigned)>,
    Entry<"cuEventRecord", int(EventHandle, StreamHandle)>,
    Entry<"cuEventQuery", int(EventHandle)>,
    Entry<"cuEventDestroy_v2", int(EventHandle)>,
    Entry<"cuIpcGetEventHandle", int(IpcHandle*, EventHandle)>,
    Entry<"cuIpcOpenEventHandle", int(EventHandle*, IpcHandle)>,
    Entry<"cuPointerGetAttributes", int(unsigned, int*, void**, DevicePtr)>,
    Entry<"cuMemGetAddressRange_v2", int(DevicePtr*, std::size_t*, DevicePtr)>,
    Entry<"cuMemGetInfo_v2", int(std::size_t*, std::size_t*)>,
    Entry<"cuMemAlloc_v2", int(DevicePtr*, std::size_t)>,
    Entry<"cuMemFree_v2", int(DevicePtr)>,
    Entry<"cuIpcGetMemHandle", int(IpcHandle*, DevicePtr)>,
    Entry<"cuIpcOpenMemHandle_v2", int(DevicePtr*, IpcHandle, unsigned)>,
    Entry<"cuIpcCloseMemHandle", int(DevicePtr)>,
    Entry<"cuMemGetAllocationGranularity", int(std::size_t*, const abi::AllocationProp*, int)>,
    Entry<"cuMemCreate", int(AllocationHandle*, std::size_t, const abi::AllocationProp*, unsigned long long)>,
    Entry<"cuMemRelease", int(AllocationHandle)>,
    Entry<"cuMemExportToShareableHandle", int(void*, AllocationHandle, int, unsigned long long)>,
    Entry<"cuMemImportFromShareableHandle", int(AllocationHandle*, void*, int)>,
    Entry<"cuMemAddressReserve", int(DevicePtr*, std::size_t, std::size_t, DevicePtr, unsigned long long)>,
    Entry<"cuMemAddressFree", int(DevicePtr, std::size_t)>,
    Entry<"cuMemMap", int(DevicePtr, std::size_t, std::size_t, AllocationHandle, unsigned long long)>,
    Entry<"cuMemUnmap", int(DevicePtr, std::size_t)>,
    Entry<"cuMemSetAccess", int(DevicePtr, std::size_t, const abi::AccessDesc*, std::size_t)>,
    Entry<"cuMemcpyAsync", int(DevicePtr, DevicePtr, std::size_t, StreamHandle)>,
    Entry<"cuMemcpy3DAsync_v2", int(const abi::Copy3D*, StreamHandle)>,
    Entry<"cuMemHostRegister_v2", int(void*, std::size_t, unsigned)>,
    Entry<"cuMemHostUnregister", int(void*)>>;
// clang-format on

struct DriverApi : DriverEntries {};

// Newer than the oldest driver that we use: may be missing.
constexpr bool is_optional(std::string_view name) { return name == "cuCtxRecordEvent"; }

}  // namespace tensorferry::cuda
