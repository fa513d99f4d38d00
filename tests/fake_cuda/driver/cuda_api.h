// The real cuda.h with every version of every function declared under its exact name, and exported
// where we define it.
#pragma once

#define __CUDA_API_VERSION_INTERNAL
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop
#undef __CUDA_API_VERSION_INTERNAL

#define FAKECUDA_API extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI
