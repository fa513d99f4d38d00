// Tensors in device memory: other libraries' as inputs, ours for other libraries.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/server/model.h>
#include <tensorferry/transport/dtype.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "owner.h"

namespace tensorferry::python {

namespace py = pybind11;

// "cuda", "cuda:1": the ordinal. Nothing for "cpu" and None; ValueError for anything else.
std::optional<int> cuda_ordinal(const py::object& device);

// Whether the object says that it lies in device memory: by __dlpack_device__, or by having
// __cuda_array_interface__.
bool is_on_device(const py::object& value);
// The stream that a caller names: its number, or an object of cuda.core's (__cuda_stream__),
// PyTorch's (cuda_stream) or CuPy's (ptr). Nothing for None; TypeError for anything else.
using CallerStream = CUstream_st*;
std::optional<CallerStream> stream_of_caller(py::handle stream);
// A copy of it as an input's bytes, in C order. The copy is put on the stream that the caller names
// or its library works on, where the library tells; else on one of ours, and this waits for it.
server::Buffer copy_from_device(server::Model& model, const py::object& value,
                                std::optional<CallerStream> stream, DType& dtype,
                                std::vector<std::int64_t>& shape);

// What __dlpack__'s `stream` and __cuda_array_interface__ mean (array API standard, "Data
// interchange mechanisms"): that stream works with the memory from now on, and finds it complete.
void use_on_stream(Owner& owner, const py::object& stream);
// The dict of __cuda_array_interface__, version 3.
py::dict cuda_array_interface(Owner& owner);
// A counted copy in CPU memory, which waits for the device.
py::object copy_to_host(const Owner& owner);

}  // namespace tensorferry::python
