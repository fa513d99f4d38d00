// Tensors in device memory: other libraries' as inputs, ours for other libraries.
#pragma once

#include <bindings_shared/device_source.h>
#include <bindings_shared/dlpack_export.h>
#include <pybind11/pybind11.h>
#include <tensorferry/server/model.h>
#include <tensorferry/transport/dtype.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "owner.h"

namespace tensorferry::python {

namespace py = pybind11;

// Whether a model's config can name it: float8 can cross only where no config is asked.
inline bool has_a_name(DType dtype) noexcept {
  return triton_number(dtype) != 0 && !dtype.is_bytes();
}

// A copy of another library's device tensor as an input's bytes, in C order. The copy is put on the
// stream that the caller names or its library works on, where the library tells; else on one of
// ours, and this waits for it.
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
