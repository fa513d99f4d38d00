// Our declarations of the driver against the real header: names, arguments, structs and values.
// What is wrong does not compile.
#include <gtest/gtest.h>

#include "driver_api.h"

#if __has_include(<cuda.h>)
#include <cuda.h>

#include <type_traits>

namespace tensorferry::cuda {
namespace {

// What the calling convention sees of a type: a pointer, an integer of a size, a struct of a size.
template <class Ours, class Theirs>
constexpr bool kSameArgument =
    std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
    std::is_class_v<Ours> == std::is_class_v<Theirs> && sizeof(Ours) == sizeof(Theirs);

template <class Ours, class Theirs>
struct SameSignature : std::false_type {};
template <class Return, class... Ours, class TheirReturn, class... Theirs>
  requires(sizeof...(Ours) == sizeof...(Theirs))
struct SameSignature<Return(Ours...), TheirReturn(Theirs...)>
    : std::bool_constant<kSameArgument<Return, TheirReturn> &&
                         (kSameArgument<Ours, Theirs> && ...)> {};

template <EntryName Name, class Theirs>
constexpr bool kMatches =
    SameSignature<std::remove_pointer_t<decltype(function_of<Name>(std::declval<DriverApi&>()))>,
                  Theirs>::value;

static_assert(kMatches<"cuInit", decltype(::cuInit)>);
static_assert(kMatches<"cuDriverGetVersion", decltype(::cuDriverGetVersion)>);
static_assert(kMatches<"cuGetErrorName", decltype(::cuGetErrorName)>);
static_assert(kMatches<"cuDeviceGetCount", decltype(::cuDeviceGetCount)>);
static_assert(kMatches<"cuDeviceGet", decltype(::cuDeviceGet)>);
static_assert(kMatches<"cuDeviceGetUuid_v2", decltype(::cuDeviceGetUuid_v2)>);
static_assert(kMatches<"cuDeviceGetAttribute", decltype(::cuDeviceGetAttribute)>);
static_assert(kMatches<"cuDeviceCanAccessPeer", decltype(::cuDeviceCanAccessPeer)>);
static_assert(kMatches<"cuDevicePrimaryCtxRetain", decltype(::cuDevicePrimaryCtxRetain)>);
static_assert(kMatches<"cuDevicePrimaryCtxRelease_v2", decltype(::cuDevicePrimaryCtxRelease_v2)>);
static_assert(kMatches<"cuDevicePrimaryCtxGetState", decltype(::cuDevicePrimaryCtxGetState)>);
static_assert(kMatches<"cuCtxPushCurrent_v2", decltype(::cuCtxPushCurrent_v2)>);
static_assert(kMatches<"cuCtxPopCurrent_v2", decltype(::cuCtxPopCurrent_v2)>);
static_assert(kMatches<"cuCtxGetCurrent", decltype(::cuCtxGetCurrent)>);
static_assert(kMatches<"cuCtxGetStreamPriorityRange", decltype(::cuCtxGetStreamPriorityRange)>);
static_assert(kMatches<"cuCtxRecordEvent", decltype(::cuCtxRecordEvent)>);
static_assert(kMatches<"cuStreamCreateWithPriority", decltype(::cuStreamCreateWithPriority)>);
static_assert(kMatches<"cuStreamDestroy_v2", decltype(::cuStreamDestroy_v2)>);
static_assert(kMatches<"cuStreamWaitEvent", decltype(::cuStreamWaitEvent)>);
static_assert(kMatches<"cuStreamIsCapturing", decltype(::cuStreamIsCapturing)>);
static_assert(
    kMatches<"cuThreadExchangeStreamCaptureMode", decltype(::cuThreadExchangeStreamCaptureMode)>);
static_assert(kMatches<"cuEventCreate", decltype(::cuEventCreate)>);
static_assert(kMatches<"cuEventRecord", decltype(::cuEventRecord)>);
static_assert(kMatches<"cuEventQuery", decltype(::cuEventQuery)>);
static_assert(kMatches<"cuEventDestroy_v2", decltype(::cuEventDestroy_v2)>);
static_assert(kMatches<"cuIpcGetEventHandle", decltype(::cuIpcGetEventHandle)>);
static_assert(kMatches<"cuIpcOpenEventHandle", decltype(::cuIpcOpenEventHandle)>);
static_assert(kMatches<"cuPointerGetAttributes", decltype(::cuPointerGetAttributes)>);
static_assert(kMatches<"cuMemGetAddressRange_v2", decltype(::cuMemGetAddressRange_v2)>);
static_assert(kMatches<"cuMemGetInfo_v2", decltype(::cuMemGetInfo_v2)>);
static_assert(kMatches<"cuMemAlloc_v2", decltype(::cuMemAlloc_v2)>);
static_assert(kMatches<"cuMemFree_v2", decltype(::cuMemFree_v2)>);
static_assert(kMatches<"cuIpcGetMemHandle", decltype(::cuIpcGetMemHandle)>);
static_assert(kMatches<"cuIpcOpenMemHandle_v2", decltype(::cuIpcOpenMemHandle_v2)>);
static_assert(kMatches<"cuIpcCloseMemHandle", decltype(::cuIpcCloseMemHandle)>);
static_assert(kMatches<"cuMemGetAllocationGranularity", decltype(::cuMemGetAllocationGranularity)>);
static_assert(kMatches<"cuMemCreate", decltype(::cuMemCreate)>);
static_assert(kMatches<"cuMemRelease", decltype(::cuMemRelease)>);
static_assert(kMatches<"cuMemExportToShareableHandle", decltype(::cuMemExportToShareableHandle)>);
static_assert(
    kMatches<"cuMemImportFromShareableHandle", decltype(::cuMemImportFromShareableHandle)>);
static_assert(kMatches<"cuMemAddressReserve", decltype(::cuMemAddressReserve)>);
static_assert(kMatches<"cuMemAddressFree", decltype(::cuMemAddressFree)>);
static_assert(kMatches<"cuMemMap", decltype(::cuMemMap)>);
static_assert(kMatches<"cuMemUnmap", decltype(::cuMemUnmap)>);
static_assert(kMatches<"cuMemSetAccess", decltype(::cuMemSetAccess)>);
static_assert(kMatches<"cuMemcpyAsync", decltype(::cuMemcpyAsync)>);
static_assert(kMatches<"cuMemcpy3DAsync_v2", decltype(::cuMemcpy3DAsync_v2)>);
static_assert(kMatches<"cuMemHostRegister_v2", decltype(::cuMemHostRegister_v2)>);
static_assert(kMatches<"cuMemHostUnregister", decltype(::cuMemHostUnregister)>);
// The list above is whole: as many as there are entries.
template <class>
struct Count;
template <class... Each>
struct Count<EntryTable<Each...>> : std::integral_constant<std::size_t, sizeof...(Each)> {};
static_assert(Count<DriverEntries>::value == 49);

static_assert(std::is_same_v<ContextHandle, CUcontext> && std::is_same_v<StreamHandle, CUstream> &&
              std::is_same_v<EventHandle, CUevent>);
static_assert(sizeof(DevicePtr) == sizeof(CUdeviceptr) && sizeof(Uuid) == sizeof(CUuuid));
static_assert(sizeof(IpcHandle) == sizeof(CUipcMemHandle) &&
              sizeof(IpcHandle) == sizeof(CUipcEventHandle));

static_assert(sizeof(abi::Location) == sizeof(CUmemLocation));
static_assert(offsetof(abi::Location, id) == offsetof(CUmemLocation, id));
static_assert(sizeof(abi::AllocationProp) == sizeof(CUmemAllocationProp));
static_assert(offsetof(abi::AllocationProp, requested_handle_types) ==
              offsetof(CUmemAllocationProp, requestedHandleTypes));
static_assert(offsetof(abi::AllocationProp, location) == offsetof(CUmemAllocationProp, location));
static_assert(offsetof(abi::AllocationProp, win32_handle_meta_data) ==
              offsetof(CUmemAllocationProp, win32HandleMetaData));
static_assert(offsetof(abi::AllocationProp, flags) == offsetof(CUmemAllocationProp, allocFlags));
static_assert(sizeof(abi::AccessDesc) == sizeof(CUmemAccessDesc));
static_assert(offsetof(abi::AccessDesc, flags) == offsetof(CUmemAccessDesc, flags));
static_assert(sizeof(abi::Copy3D) == sizeof(CUDA_MEMCPY3D));
static_assert(offsetof(abi::Copy3D, to) == offsetof(CUDA_MEMCPY3D, dstXInBytes));
static_assert(offsetof(abi::Copy3D, width_bytes) == offsetof(CUDA_MEMCPY3D, WidthInBytes));
static_assert(offsetof(abi::Copy3D, depth) == offsetof(CUDA_MEMCPY3D, Depth));
static_assert(offsetof(abi::Copy3DSide, memory_type) == offsetof(CUDA_MEMCPY3D, srcMemoryType));
static_assert(offsetof(abi::Copy3DSide, host) == offsetof(CUDA_MEMCPY3D, srcHost));
static_assert(offsetof(abi::Copy3DSide, device) == offsetof(CUDA_MEMCPY3D, srcDevice));
static_assert(offsetof(abi::Copy3DSide, array) == offsetof(CUDA_MEMCPY3D, srcArray));
static_assert(offsetof(abi::Copy3DSide, reserved) == offsetof(CUDA_MEMCPY3D, reserved0));
static_assert(offsetof(abi::Copy3DSide, pitch) == offsetof(CUDA_MEMCPY3D, srcPitch));
static_assert(offsetof(abi::Copy3DSide, height) == offsetof(CUDA_MEMCPY3D, srcHeight));

static_assert(abi::kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY);
static_assert(abi::kNotInitialized == CUDA_ERROR_NOT_INITIALIZED);
static_assert(abi::kDeinitialized == CUDA_ERROR_DEINITIALIZED);
static_assert(abi::kStubLibrary == CUDA_ERROR_STUB_LIBRARY);
static_assert(abi::kNoDevice == CUDA_ERROR_NO_DEVICE);
static_assert(abi::kInvalidContext == CUDA_ERROR_INVALID_CONTEXT);
static_assert(abi::kAlreadyMapped == CUDA_ERROR_ALREADY_MAPPED);
static_assert(abi::kPeerAccessUnsupported == CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
static_assert(abi::kNotReady == CUDA_ERROR_NOT_READY);
static_assert(abi::kContextIsDestroyed == CUDA_ERROR_CONTEXT_IS_DESTROYED);
static_assert(abi::kTooManyPeers == CUDA_ERROR_TOO_MANY_PEERS);
static_assert(abi::kHostMemoryAlreadyRegistered == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
static_assert(abi::kNotPermitted == CUDA_ERROR_NOT_PERMITTED);
static_assert(abi::kNotSupported == CUDA_ERROR_NOT_SUPPORTED);
static_assert(abi::kFirstCapture == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
static_assert(abi::kLastCapture == CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
static_assert(abi::kIntegrated == CU_DEVICE_ATTRIBUTE_INTEGRATED);
static_assert(abi::kUnifiedAddressing == CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING);
static_assert(abi::kHostRegisterSupported == CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED);
static_assert(abi::kVirtualMemorySupported ==
              CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
static_assert(abi::kPosixFdSupported ==
              CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
static_assert(abi::kIpcEventSupported == CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED);
static_assert(abi::kPointerContext == CU_POINTER_ATTRIBUTE_CONTEXT);
static_assert(abi::kPointerMemoryType == CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
static_assert(abi::kPointerBufferId == CU_POINTER_ATTRIBUTE_BUFFER_ID);
static_assert(abi::kPointerIsManaged == CU_POINTER_ATTRIBUTE_IS_MANAGED);
static_assert(abi::kPointerDeviceOrdinal == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
static_assert(abi::kPointerLegacyIpcCapable == CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE);
static_assert(abi::kPointerAllowedHandleTypes == CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES);
static_assert(abi::kPointerMempoolHandle == CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE);
static_assert(abi::kMemoryTypeHost == CU_MEMORYTYPE_HOST);
static_assert(abi::kMemoryTypeDevice == CU_MEMORYTYPE_DEVICE);
static_assert(abi::kMemoryTypeUnified == CU_MEMORYTYPE_UNIFIED);
static_assert(abi::kStreamNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(abi::kEventDisableTiming == CU_EVENT_DISABLE_TIMING);
static_assert(abi::kEventInterprocess == CU_EVENT_INTERPROCESS);
static_assert(abi::kIpcLazyPeerAccess == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
static_assert(abi::kHostRegisterPortable == CU_MEMHOSTREGISTER_PORTABLE);
static_assert(abi::kHostRegisterDeviceMap == CU_MEMHOSTREGISTER_DEVICEMAP);
static_assert(abi::kCaptureModeRelaxed == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(abi::kCaptureStatusNone == CU_STREAM_CAPTURE_STATUS_NONE);
static_assert(abi::kAllocationPinned == CU_MEM_ALLOCATION_TYPE_PINNED);
static_assert(abi::kHandlePosixFd == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
static_assert(abi::kLocationDevice == CU_MEM_LOCATION_TYPE_DEVICE);
static_assert(abi::kAccessReadWrite == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
static_assert(abi::kGranularityMinimum == CU_MEM_ALLOC_GRANULARITY_MINIMUM);

TEST(DriverAbi, StreamsWithoutAHandleHaveTheHeadersValues) {
  EXPECT_EQ(legacy_stream(), CU_STREAM_LEGACY);
  EXPECT_EQ(per_thread_stream(), CU_STREAM_PER_THREAD);
}

}  // namespace
}  // namespace tensorferry::cuda

#else
TEST(DriverAbi, IsComparedWithTheRealHeader) { GTEST_SKIP() << "there is no cuda.h here"; }
#endif
