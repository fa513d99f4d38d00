#include "call.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace fakecuda::runtime {
namespace {

thread_local int chosen_device = 0;
thread_local cudaError_t last = cudaSuccess;

struct Process {
  std::mutex mutex;
  std::map<int, CUcontext> primary_contexts;  // each retained once, until exit
  std::set<std::string> not_supported;        // functions already complained about
};

// Never destroyed: threads of the program may call until the very end.
Process& process() {
  static auto* made = new Process;
  return *made;
}

}  // namespace

CUresult primary_context(int device, CUcontext* context) {
  if (CUresult result = cuInit(0); result != CUDA_SUCCESS) return result;
  std::lock_guard lock(process().mutex);
  auto& known = process().primary_contexts;
  if (auto found = known.find(device); found != known.end()) {
    *context = found->second;
    return CUDA_SUCCESS;
  }
  CUresult result = cuDevicePrimaryCtxRetain(context, device);
  if (result == CUDA_SUCCESS) known.emplace(device, *context);
  return result;
}

cudaError_t current_device(int* device) {
  CUcontext context = nullptr;
  CUresult result = cuInit(0);
  if (result == CUDA_SUCCESS) result = cuCtxGetCurrent(&context);
  if (result == CUDA_SUCCESS && context) return remember(cuCtxGetDevice(device));
  if (result == CUDA_SUCCESS) *device = chosen_device;
  return remember(result);
}

cudaError_t use_device(int device) {
  CUcontext context = nullptr;
  CUresult result = primary_context(device, &context);
  if (result == CUDA_SUCCESS) result = cuCtxSetCurrent(context);
  if (result == CUDA_SUCCESS) chosen_device = device;
  return remember(result);
}

CUresult ensure_context() {
  CUcontext context = nullptr;
  CUresult result = cuInit(0);
  if (result == CUDA_SUCCESS) result = cuCtxGetCurrent(&context);
  if (result != CUDA_SUCCESS || context) return result;
  result = primary_context(chosen_device, &context);
  return result == CUDA_SUCCESS ? cuCtxSetCurrent(context) : result;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

cudaError_t last_error(bool clear) {
  cudaError_t error = last;
  if (clear) last = cudaSuccess;
  return error;
}

int not_supported_by_name(const char* function) {
  std::lock_guard lock(process().mutex);
  if (process().not_supported.insert(function).second && !std::getenv("FAKECUDA_QUIET")) {
    std::fprintf(stderr, "fake CUDA runtime: %s is not emulated: error 801\n", function);
  }
  return remember(cudaErrorNotSupported);
}

}  // namespace fakecuda::runtime
