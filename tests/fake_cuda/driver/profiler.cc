// A profiler's window, which nobody watches.
#include "api.h"

using namespace fakecuda;

extern "C" CUresult cuProfilerStart();
extern "C" CUresult cuProfilerStop();

FAKECUDA_API cuProfilerStart() {
  return api(__func__, Need::Context, [](Call&) { return CUDA_SUCCESS; });
}

FAKECUDA_API cuProfilerStop() {
  return api(__func__, Need::Context, [](Call&) { return CUDA_SUCCESS; });
}
