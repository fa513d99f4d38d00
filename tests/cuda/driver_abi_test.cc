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
constexpr bool same_argument =
    std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
    std::is_class_v<Ours> == std::is_class_v<Theirs> && sizeof(Ours) == sizeof(Theirs);

template <class Ours, class Theirs>
struct SameSignature : std::false_type {};
template <class Return, class... Ours, class TheirReturn, class... Theirs>
  requires(sizeof...(Ours) == sizeof...(Theirs))
struct SameSignature<Return(Ours...), TheirReturn(Theirs...)>
    : std::bool_constant<same_argument<Return, TheirReturn> &&
                         (same_argument<Ours, Theirs> && ...)> {};

template <EntryName Name, class Theirs>
constexpr bool matches =
    SameSignature<std::remove_pointer_t<decltype(entry<Name>(std::declval<DriverApi&>()).function)>,
                  Theirs>::value;

static_assert(matches<"cuInit", decltype(::cuInit)>);
static_assert(matches<"cuDriverGetVersion", decltype(::cuDriverGetVersion)>);
static_assert(matches<"cuGetErrorName", decltype(::cuGetErrorName)>);
static_assert(matches<"cuDeviceGetCount", decltype(::cuDeviceGetCount)>);
static_assert(matches<"cuDeviceGet", decltype(::cuDeviceGet)>);
static_assert(matches<"cuDeviceGetUuid_v2", decltype(::cuDeviceGetUuid_v2)>);
static_assert(matches<"cuDeviceGetAttribute", decltype(::cuDeviceGetAttribute)>);
static_assert(matches<"cuDeviceCanAccessPeer", decltype(::cuDeviceCanAccessPeer)>);
static_assert(matches<"cuDevicePrimaryCtxRetain", decltype(::cuDevicePrimaryCtxRetain)>);
static_assert(matches<"cuDevicePrimaryCtxRelease_v2", decltype(::cuDevicePrimaryCtxRelease_v2)>);
static_assert(matches<"cuDevicePrimaryCtxGetState", decltype(::cuDevicePrimaryCtxGetState)>);
static_assert(matches<"cuCtxPushCurrent_v2", decltype(::cuCtxPushCurrent_v2)>);
static_assert(matches<"cuCtxPopCurrent_v2", decltype(::cuCtxPopCurrent_v2)>);
static_assert(matches<"cuCtxGetCurrent", decltype(::cuCtxGetCurrent)>);
static_assert(matches<"cuCtxGetStreamPriorityRange", decltype(::cuCtxGetStreamPriorityRange)>);
static_assert(matches<"cuCtxRecordEvent", decltype(::cuCtxRecordEvent)>);
static_assert(matches<"cuStreamCreateWithPriority", decltype(::cuStreamCreateWithPriority)>);
static_assert(matches<"cuStreamDestroy_v2", decltype(::cuStreamDestroy_v2)>);
static_assert(matches<"cuStreamWaitEvent", decltype(::cuStreamWaitEvent)>);
static_assert(matches<"cuStreamIsCapturing", decltype(::cuStreamIsCapturing)>);
static_assert(
    matches<"cuThreadExchangeStreamCaptureMode", decltype(::cuThreadExchangeStreamCaptureMode)>);
static_assert(matches<"cuEventCreate", decltype(::cuEventCreate)>);
static_assert(matches<"cuEventRecord", decltype(::cuEventRecord)>);
static_assert(matches<"cuEventQuery", decltype(::cuEventQuery)>);
static_assert(matches<"cuEventDestroy_v2", decltype(::cuEventDestroy_v2)>);
static_assert(matches<"cuIpcGetEventHandle", decltype(::cuIpcGetEventHandle)>);
static_assert(matches<"cuIpcOpenEventHandle", decltype(::cuIpcOpenEventHandle)>);
static_assert(matches<"cuPointerGetAttributes", decltype(::cuPointerGetAttributes)>);
static_assert(matches<"cuMemGetAddressRange_v2", decltype(::cuMemGetAddressRange_v2)>);
static_assert(matches<"cuMemGetInfo_v2", decltype(::cuMemGetInfo_v2)>);
static_assert(matches<"cuMemAlloc_v2", decltype(::cuMemAlloc_v2)>);
static_assert(matches<"cuMemFree_v2", decltype(::cuMemFree_v2)>);
static_assert(matches<"cuIpcGetMemHandle", decltype(::cuIpcGetMemHandle)>);
static_assert(matches<"cuIpcOpenMemHandle_v2", decltype(::cuIpcOpenMemHandle_v2)>);
static_assert(matches<"cuIpcCloseMemHandle", decltype(::cuIpcCloseMemHandle)>);
static_assert(matches<"cuMemGetAllocationGranularity", decltype(::cuMemGetAllocationGranularity)>);
static_assert(matches<"cuMemCreate", decltype(::cuMemCreate)>);
static_assert(matches<"cuMemRelease", decltype(::cuMemRelease)>);
static_assert(matches<"cuMemExportToShareableHandle", decltype(::cuMemExportToShareableHandle)>);
static_assert(
    matches<"cuMemImportFromShareableHandle", decltype(::cuMemImportFromShareableHandle)>);
static_assert(matches<"cuMemAddressReserve", decltype(::cuMemAddressReserve)>);
static_assert(matches<"cuMemAddressFree", decltype(::cuMemAddressFree)>);
static_assert(matches<"cuMemMap", decltype(::cuMemMap)>);
static_assert(matches<"cuMemUnmap", decltype(::cuMemUnmap)>);
static_assert(matches<"cuMemSetAccess", decltype(::cuMemSetAccess)>);
static_assert(matches<"cuMemcpyAsync", decltype(::cuMemcpyAsync)>);
static_assert(matches<"cuMemcpy3DAsync_v2", decltype(::cuMemcpy3DAsync_v2)>);
static_assert(matches<"cuMemHostRegister_v2", decltype(::cuMemHostRegister_v2)>);
static_assert(matches<"cuMemHostUnregister", decltype(::cuMemHostUnregister)>);
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
