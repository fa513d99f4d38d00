// Kernels: registered and launched, never run. A launch is an opaque operation on its stream, in
// order with the others.
#include <fakecuda.h>

#include <mutex>
#include <unordered_map>

#include "call.h"

using namespace fakecuda::runtime;

namespace {

constexpr int kThreadsPerBlock = 1024;
constexpr int kThreadsPerMultiprocessor = 2048;

struct CallConfiguration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};
thread_local CallConfiguration pushed;

// Kernels' names by the address of their host stub, which is how the runtime knows a kernel.
struct Kernels {
  std::mutex mutex;
  std::unordered_map<const void*, const char*> names;  // the names are the library's own text
};

// Never destroyed: libraries register before main() and launch until the very end.
Kernels& kernels() {
  static auto* made = new Kernels;
  return *made;
}

const char* name_of(const void* kernel) {
  std::lock_guard lock(kernels().mutex);
  auto found = kernels().names.find(kernel);
  return found == kernels().names.end() ? "a kernel" : found->second;
}

// What a kernel reads and writes isn't known here.
CUresult launch(const void* kernel, CUstream stream) {
  return static_cast<CUresult>(
      fakecuda_launch(stream, name_of(kernel), nullptr, nullptr, 0, nullptr, nullptr, 0));
}

cudaError_t occupancy(int* blocks, int block_threads) {
  if (block_threads <= 0) return remember(cudaErrorInvalidValue);
  *blocks = kThreadsPerMultiprocessor / block_threads;
  return cudaSuccess;
}

}  // namespace

extern "C" {

// What compiled code calls before main() and around each <<<>>>; declared by the compiler's headers
// only.
void** __cudaRegisterFatBinary(void* fat_binary);
void __cudaRegisterFatBinaryEnd(void** handle);
void __cudaUnregisterFatBinary(void** handle);
void __cudaRegisterFunction(void** handle, const char* host_function, char* device_function,
                            const char* name, int thread_limit, uint3* thread, uint3* block,
                            dim3* block_size, dim3* grid_size, int* warp_size);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream);
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream);
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared_bytes, cudaStream_t stream);

void** __cudaRegisterFatBinary(void* fat_binary) { return new void*(fat_binary); }

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) { delete handle; }

void __cudaRegisterFunction(void**, const char* host_function, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  std::lock_guard lock(kernels().mutex);
  kernels().names.emplace(host_function, name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream) {
  pushed = {grid, block, shared_bytes, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared_bytes = pushed.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = pushed.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t,
                               cudaStream_t stream) {
  return in_context(launch, static_cast<const void*>(kernel), stream);
}

cudaError_t cudaLaunchKernel(const void* function, dim3, dim3, void**, size_t,
                             cudaStream_t stream) {
  return in_context(launch, function, stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3, dim3, void**, size_t,
                                        cudaStream_t stream) {
  return in_context(launch, function, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  return in_context(launch, function, config->stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = kThreadsPerBlock;
  attributes->numRegs = 32;
  attributes->ptxVersion = 90;
  attributes->binaryVersion = 90;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*,
                                                          int block_threads, size_t) {
  return occupancy(blocks, block_threads);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*,
                                                                   int block_threads, size_t,
                                                                   unsigned) {
  return occupancy(blocks, block_threads);
}

}  // extern "C"
