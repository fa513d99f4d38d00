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

// What is known of memory on the device of that ordinal, at which these streams may be at work.
// nullptr with an exception set where the device can't be used.
std::shared_ptr<DeviceUse> use_on(int ordinal, Streams streams);
// Another thread's per-thread stream is another one: it goes by all of the context.
UsedStream as_used(cuda::StreamHandle stream) noexcept;
// Strides that one copy can pack go into `memory`; false where there are none such.
bool keep_strides(const DLTensor& view, Memory& memory);

// By the library's C functions (DLPack's exchange API), where it has any: its own current stream
// made the tensor, and nobody waits. Nothing where it has none; an exception may be set.
struct StreamTensor {
  ForeignTensor tensor;
  UsedStream made_on = kAnyStream;
};
std::optional<StreamTensor> by_exchange_api(PyObject* object, int ordinal);
// The capsule of `__dlpack__(stream=one of ours)`, with the device current. Some libraries don't
// put that stream in order with their own (cuda.core says so): who takes the memory goes by
// kAnyStream.
PyRef capsule_on_our_stream(PyObject* object, const LocalDevice& local);

}  // namespace tensorferry::stub
