// libnvidia-ml.so.1, as much as torch asks of it: how many devices there are, and that there is
// neither NVLink nor a fabric between them. torch calls it without a look whether it is there once
// its allocator has expandable segments.
#include "settings.h"

namespace {

// Of nvmlReturn_t.
constexpr int kSuccess = 0;
constexpr int kInvalidArgument = 2;
constexpr int kNotSupported = 3;
constexpr int kDriverNotLoaded = 9;

// Names each device; nothing is kept behind it.
int only_device = 0;

// nvmlGpuFabricInfoV_t: the caller sets the version.
struct FabricInfo {
  unsigned version;
  unsigned char cluster_uuid[16];
  int status;
  unsigned clique_id;
  unsigned char state;
  unsigned health_mask;
};
constexpr unsigned char kNoFabric = 0;  // NVML_GPU_FABRIC_STATE_NOT_SUPPORTED

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int nvmlInit_v2() { return fakecuda::read_settings().asked_for ? kSuccess : kDriverNotLoaded; }

int nvmlShutdown() { return kSuccess; }

const char* nvmlErrorString(int error) {
  return error == kSuccess ? "Success" : "Not supported by the emulated NVML";
}

int nvmlDeviceGetCount_v2(unsigned* count) {
  if (count == nullptr) return kInvalidArgument;
  *count = static_cast<unsigned>(fakecuda::read_settings().devices);
  return kSuccess;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  if (id == nullptr || device == nullptr) return kInvalidArgument;
  *device = &only_device;
  return kSuccess;
}

int nvmlDeviceGetGpuFabricInfoV(void* device, FabricInfo* info) {
  if (device == nullptr || info == nullptr) return kInvalidArgument;
  info->state = kNoFabric;
  return kSuccess;
}

int nvmlDeviceGetComputeRunningProcesses() { return kNotSupported; }
int nvmlDeviceGetHandleByIndex_v2() { return kNotSupported; }
int nvmlDeviceGetNvLinkRemoteDeviceType() { return kNotSupported; }
int nvmlDeviceGetHandleByUUID() { return kNotSupported; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2() { return kNotSupported; }
int nvmlDeviceGetP2PStatus() { return kNotSupported; }
int nvmlDeviceGetUUID() { return kNotSupported; }
int nvmlSystemGetCudaDriverVersion_v2() { return kNotSupported; }

}  // extern "C"
#pragma GCC visibility pop
