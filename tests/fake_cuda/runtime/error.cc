// Errors: their names are the runtime's own, their texts the driver's.
#include <algorithm>
#include <array>
#include <utility>

#include "call.h"

namespace fakecuda::runtime {
namespace {

constexpr std::array kNames = {
    std::pair{cudaSuccess, "cudaSuccess"},
    std::pair{cudaErrorInvalidValue, "cudaErrorInvalidValue"},
    std::pair{cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
    std::pair{cudaErrorInitializationError, "cudaErrorInitializationError"},
    std::pair{cudaErrorCudartUnloading, "cudaErrorCudartUnloading"},
    std::pair{cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration"},
    std::pair{cudaErrorInvalidSymbol, "cudaErrorInvalidSymbol"},
    std::pair{cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection"},
    std::pair{cudaErrorStubLibrary, "cudaErrorStubLibrary"},
    std::pair{cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver"},
    std::pair{cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable"},
    std::pair{cudaErrorNoDevice, "cudaErrorNoDevice"},
    std::pair{cudaErrorInvalidDevice, "cudaErrorInvalidDevice"},
    std::pair{cudaErrorInvalidKernelImage, "cudaErrorInvalidKernelImage"},
    std::pair{cudaErrorDeviceUninitialized, "cudaErrorDeviceUninitialized"},
    std::pair{cudaErrorMapBufferObjectFailed, "cudaErrorMapBufferObjectFailed"},
    std::pair{cudaErrorAlreadyMapped, "cudaErrorAlreadyMapped"},
    std::pair{cudaErrorPeerAccessUnsupported, "cudaErrorPeerAccessUnsupported"},
    std::pair{cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle"},
    std::pair{cudaErrorIllegalState, "cudaErrorIllegalState"},
    std::pair{cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound"},
    std::pair{cudaErrorNotReady, "cudaErrorNotReady"},
    std::pair{cudaErrorIllegalAddress, "cudaErrorIllegalAddress"},
    std::pair{cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled"},
    std::pair{cudaErrorPeerAccessNotEnabled, "cudaErrorPeerAccessNotEnabled"},
    std::pair{cudaErrorContextIsDestroyed, "cudaErrorContextIsDestroyed"},
    std::pair{cudaErrorTooManyPeers, "cudaErrorTooManyPeers"},
    std::pair{cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered"},
    std::pair{cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered"},
    std::pair{cudaErrorLaunchFailure, "cudaErrorLaunchFailure"},
    std::pair{cudaErrorNotPermitted, "cudaErrorNotPermitted"},
    std::pair{cudaErrorNotSupported, "cudaErrorNotSupported"},
    std::pair{cudaErrorSystemNotReady, "cudaErrorSystemNotReady"},
    std::pair{cudaErrorSystemDriverMismatch, "cudaErrorSystemDriverMismatch"},
    std::pair{cudaErrorCompatNotSupportedOnDevice, "cudaErrorCompatNotSupportedOnDevice"},
    std::pair{cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported"},
    std::pair{cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated"},
    std::pair{cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge"},
    std::pair{cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched"},
    std::pair{cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined"},
    std::pair{cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation"},
    std::pair{cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit"},
    std::pair{cudaErrorCapturedEvent, "cudaErrorCapturedEvent"},
    std::pair{cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread"},
    std::pair{cudaErrorTimeout, "cudaErrorTimeout"},
    std::pair{cudaErrorUnknown, "cudaErrorUnknown"},
};

}  // namespace
}  // namespace fakecuda::runtime

using namespace fakecuda::runtime;

extern "C" {

cudaError_t cudaGetLastError() { return last_error(true); }

cudaError_t cudaPeekAtLastError() { return last_error(false); }

const char* cudaGetErrorName(cudaError_t error) {
  auto named = [error](const auto& entry) { return entry.first == error; };
  const auto* found = std::ranges::find_if(kNames, named);
  return found == kNames.end() ? "unrecognized error code" : found->second;
}

const char* cudaGetErrorString(cudaError_t error) {
  const char* text = nullptr;
  CUresult found = cuGetErrorString(static_cast<CUresult>(error), &text);
  return found == CUDA_SUCCESS && text ? text : "unrecognized error code";
}

}  // extern "C"
