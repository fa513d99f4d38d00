// The CUDA array interface, version 3, out of a Tensor on a device and into one. It names no owner:
// whoever takes the memory keeps the object.
#pragma once

#include <optional>

#include "memory_object.h"
#include "py.h"

namespace tensorferry::stub {

// `Tensor.__cuda_array_interface__`, a getter; AttributeError for a tensor of the CPU.
PyObject* cuda_array_interface(PyObject* self, void*);
bool has_cuda_array_interface(PyObject* object);
// The object's memory. nullptr with an exception set.
PyRef memory_of_cuda_array(PyObject* object);
// Its bytes, where they lie in a row.
struct CudaBytes {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};
std::optional<CudaBytes> bytes_of_cuda_array(PyObject* object);

}  // namespace tensorferry::stub
