// How Python gets at device memory: opened when it is first asked for, and put in order with the
// streams that are to use it. Sources: the array API standard's rules for `stream`. All need the
// GIL; they let go of it while they wait.
#pragma once

#include <tensorferry/cuda/host_wait.h>

#include <optional>

#include "memory_object.h"
#include "py.h"
#include "tensor_object.h"

namespace tensorferry::stub {

// The same as any device error becomes in Python.
void raise_error(const Error& error);

bool is_on_device(const TensorObject* tensor) noexcept;
// This process's number for the device. Nothing and an exception set where it isn't visible here.
std::optional<int> ordinal_of(const Memory& memory);
// Opens the device and finds the address. False with an exception set.
bool reach(Memory& memory);

// For memory that was reached; false with an exception set.
// The stream that DLPack's `stream` argument means may touch it from now on.
bool admit_consumer(Memory& memory, PyObject* stream);
bool admit_stream(Memory& memory, cuda::StreamHandle stream);
// Any stream may, at once: waits until nobody is at work on it any more.
bool admit_any_stream(Memory& memory, cuda::WaitReason reason);

// False with an exception set in a process that the model forked: nothing of CUDA works there.
bool refuse_in_forked_child();
// An array over a copy in host memory, made by the server where it owns the memory. Waits for it.
PyRef array_of_device(Memory& memory);
// Copies what another library or a block of ours holds there, packed, and waits for it. False with
// an exception set.
bool copy_to_host(std::byte* to, Memory& memory, cuda::WaitReason reason);
DeviceRange range_of(const Memory& memory);

}  // namespace tensorferry::stub
