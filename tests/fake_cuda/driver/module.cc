// Modules, libraries and kernels as far as an emulator without a compiler has them: any image
// loads, any name is in it, and what is launched computes nothing.
#include "api.h"

#include <algorithm>

namespace fakecuda {
namespace {

constexpr int kThreadsOfBlock = 1024;
constexpr int kThreadsOfMultiprocessor = 2048;

// One kind of object behind the driver's five: modules, functions, libraries and kernels are only
// names here.
template <class Handle>
Handle make_handle() {
  return reinterpret_cast<Handle>(0x0e00'0000'0000 + next_serial() * 16);
}

template <class Handle>
CUresult load(const char* name, Handle* handle, const void* image) {
  return api(name, Need::Context, [&](Call&) {
    if (handle == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *handle = make_handle<Handle>();
    return CUDA_SUCCESS;
  });
}

template <class Handle>
CUresult accept(const char* name, Handle handle) {
  return api(name, Need::Context,
             [&](Call&) { return handle != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

int attribute_value(CUfunction_attribute attribute) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return kThreadsOfBlock;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      return 32;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      return 90;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      return 49152;
    default:
      return 0;
  }
}

CUresult occupancy(const char* name, int* blocks, CUfunction function, int threads) {
  return api(name, Need::Context, [&](Call&) {
    if (blocks == nullptr || function == nullptr || threads <= 0) return CUDA_ERROR_INVALID_VALUE;
    *blocks = threads <= kThreadsOfBlock ? std::min(32, kThreadsOfMultiprocessor / threads) : 0;
    return CUDA_SUCCESS;
  });
}

CUresult best_block(const char* name, int* grid, int* block, CUfunction function, int limit) {
  return api(name, Need::Context, [&](Call&) {
    if (grid == nullptr || block == nullptr || function == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *block = limit > 0 ? std::min(limit, kThreadsOfBlock) : kThreadsOfBlock;
    *grid = 132 * (kThreadsOfMultiprocessor / *block);
    return CUDA_SUCCESS;
  });
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuModuleLoadData(CUmodule* module, const void* image) {
  return load(__func__, module, image);
}
FAKECUDA_API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int, CUjit_option*,
                                void**) {
  return load(__func__, module, image);
}
FAKECUDA_API cuModuleLoadFatBinary(CUmodule* module, const void* image) {
  return load(__func__, module, image);
}
FAKECUDA_API cuModuleUnload(CUmodule module) { return accept(__func__, module); }
FAKECUDA_API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return load(__func__, function, module != nullptr ? name : nullptr);
}
FAKECUDA_API cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, CUmodule, const char*) {
  return api(__func__, Need::Context, [](Call&) { return CUDA_ERROR_NOT_FOUND; });
}
FAKECUDA_API cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  return api(__func__, Need::Init, [&](Call&) {
    if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**,
                               unsigned int, CUlibraryOption*, void**, unsigned int) {
  return load(__func__, library, image);
}
FAKECUDA_API cuLibraryUnload(CUlibrary library) { return accept(__func__, library); }
FAKECUDA_API cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  return load(__func__, kernel, library != nullptr ? name : nullptr);
}
FAKECUDA_API cuLibraryGetModule(CUmodule* module, CUlibrary library) {
  return load(__func__, module, library);
}
FAKECUDA_API cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  return api(__func__, Need::Context, [&](Call&) {
    if (function == nullptr || kernel == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *function = reinterpret_cast<CUfunction>(kernel);
    return CUDA_SUCCESS;
  });
}
FAKECUDA_API cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel kernel,
                                  CUdevice) {
  return api(__func__, Need::Context, [&](Call&) {
    if (value == nullptr || kernel == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *value = attribute_value(attribute);
    return CUDA_SUCCESS;
  });
}
FAKECUDA_API cuKernelSetAttribute(CUfunction_attribute, int, CUkernel kernel, CUdevice) {
  return accept(__func__, kernel);
}
FAKECUDA_API cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache, CUdevice) {
  return accept(__func__, kernel);
}

FAKECUDA_API cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  return api(__func__, Need::Context, [&](Call&) {
    if (value == nullptr || function == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *value = attribute_value(attribute);
    return CUDA_SUCCESS;
  });
}
FAKECUDA_API cuFuncSetAttribute(CUfunction function, CUfunction_attribute, int) {
  return accept(__func__, function);
}
FAKECUDA_API cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
  return accept(__func__, function);
}

FAKECUDA_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function,
                                                         int threads, size_t) {
  return occupancy(__func__, blocks, function, threads);
}
FAKECUDA_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function,
                                                                  int threads, size_t,
                                                                  unsigned int) {
  return occupancy(__func__, blocks, function, threads);
}
FAKECUDA_API cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction function,
                                              CUoccupancyB2DSize, size_t, int limit) {
  return best_block(__func__, grid, block, function, limit);
}
FAKECUDA_API cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, CUfunction function,
                                                       CUoccupancyB2DSize, size_t, int limit,
                                                       unsigned int) {
  return best_block(__func__, grid, block, function, limit);
}
