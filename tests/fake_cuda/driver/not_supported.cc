// Functions that clients look up before they do anything, and that aren't emulated. Without CUDA's
// headers, whose older versions don't declare them all.
namespace {

constexpr int kNotSupported = 801;  // CUDA_ERROR_NOT_SUPPORTED

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int cuCtxFromGreenCtx() { return kNotSupported; }
int cuDevResourceGenerateDesc() { return kNotSupported; }
int cuDevSmResourceSplitByCount() { return kNotSupported; }
int cuDeviceGetDevResource() { return kNotSupported; }
int cuGreenCtxCreate() { return kNotSupported; }
int cuGreenCtxDestroy() { return kNotSupported; }
int cuGreenCtxStreamCreate() { return kNotSupported; }
int cuLogsRegisterCallback() { return kNotSupported; }
int cuLogsUnregisterCallback() { return kNotSupported; }
int cuMulticastAddDevice() { return kNotSupported; }
int cuMulticastBindMem() { return kNotSupported; }
int cuMulticastCreate() { return kNotSupported; }
int cuMulticastUnbind() { return kNotSupported; }
int cuStreamWriteValue32() { return kNotSupported; }

}  // extern "C"
#pragma GCC visibility pop
