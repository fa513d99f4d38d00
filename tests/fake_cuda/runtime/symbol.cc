// __device__ variables: each is given device memory of its size, on each device that asks for its
// address.
#include <map>
#include <mutex>
#include <utility>

#include "call.h"

using namespace fakecuda::runtime;

namespace {

struct Variables {
  std::mutex mutex;
  std::map<const void*, size_t> bytes;  // by the address of the host's shadow
  std::map<std::pair<CUcontext, const void*>, CUdeviceptr> made;  // lives as long as its context
};

// Never destroyed: libraries register their variables before main() and may copy to them until the
// very end.
Variables& variables() {
  static auto* made = new Variables;
  return *made;
}

CUresult address_of(const void* symbol, CUdeviceptr* address, size_t* bytes) {
  CUcontext context = nullptr;
  if (CUresult result = cuCtxGetCurrent(&context); result != CUDA_SUCCESS) return result;
  std::lock_guard lock(variables().mutex);
  auto known = variables().bytes.find(symbol);
  if (known == variables().bytes.end()) return static_cast<CUresult>(cudaErrorInvalidSymbol);
  *bytes = known->second;
  CUdeviceptr& made = variables().made[{context, symbol}];
  CUresult result = made ? CUDA_SUCCESS : cuMemAlloc(&made, *bytes);
  *address = made;
  return result;
}

CUresult get_address(void** out, const void* symbol) {
  CUdeviceptr address = 0;
  size_t bytes = 0;
  CUresult result = address_of(symbol, &address, &bytes);
  *out = reinterpret_cast<void*>(address);
  return result;
}

CUresult copy_to(const void* symbol, const void* from, size_t count, size_t offset) {
  CUdeviceptr address = 0;
  size_t bytes = 0;
  if (CUresult result = address_of(symbol, &address, &bytes); result != CUDA_SUCCESS) return result;
  if (offset > bytes || count > bytes - offset) return CUDA_ERROR_INVALID_VALUE;
  return cuMemcpy(address + offset, device_address(from), count);
}

}  // namespace

extern "C" {

// What compiled code calls before main(); declared by the compiler's headers only.
void __cudaRegisterVar(void** handle, char* host_variable, char* device_variable, const char* name,
                       int external, size_t bytes, int constant, int global);

void __cudaRegisterVar(void**, char* host_variable, char*, const char*, int, size_t bytes, int,
                       int) {
  std::lock_guard lock(variables().mutex);
  variables().bytes[host_variable] = bytes;
}

cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  return in_context(get_address, address, symbol);
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t count, size_t offset,
                               cudaMemcpyKind) {
  return in_context(copy_to, symbol, from, count, offset);
}

}  // extern "C"
