// Other libraries' device tensors as Memory: whose stream made them, and what keeps them.
#pragma once

#include <dlpack/dlpack.h>

#include <memory>
#include <optional>

#include "memory_object.h"
#include "py.h"

namespace tensorferry::stub {

// A tensor that a library handed out.
struct ForeignTensor {
  const DLTensor* view = nullptr;
  bool read_only = false;
  std::shared_ptr<void> keeper;
};

// Calls the tensor's deleter when the last holder is gone: on any thread, with or without the GIL.
std::shared_ptr<void> keeper_of(DLManagedTensor* managed);
std::shared_ptr<void> keeper_of(DLManagedTensorVersioned* managed);

// What is known of memory on the device of that ordinal that the stream has made. nullptr with an
// exception set where the device can't be used.
std::shared_ptr<DeviceUse> use_on(int ordinal, cuda::StreamHandle made_on);
// Strides that one copy can pack go into `memory`; false where there are none such.
bool keep_strides(const DLTensor& view, Memory& memory);

// By the library's C functions (DLPack's exchange API), where it has any: its own current stream
// made the tensor, and nobody waits. Nothing where it has none; an exception may be set.
struct StreamTensor {
  ForeignTensor tensor;
  cuda::StreamHandle made_on = nullptr;
};
std::optional<StreamTensor> by_exchange_api(PyObject* object, int ordinal);
// The capsule of `__dlpack__(stream=one of ours)`, with the device current.
PyRef capsule_on_our_stream(PyObject* object, const LocalDevice& local);

}  // namespace tensorferry::stub
