// DLPack for what NumPy has no dtype for (bfloat16), and for device memory.
#pragma once

#include <pybind11/pybind11.h>

namespace tensorferry::python {

namespace py = pybind11;

// A capsule over the memory of an owner's capsule, which it keeps; with `copy`, over a counted copy
// of it. `version`: None or the consumer's pair. What was given to a request is read-only: said by
// the versioned form, BufferError without.
// Of device memory: `stream` is the consumer's (device_arrays.h), and a copy is refused.
py::object export_owner(const py::object& owner, const py::object& version, bool copy,
                        const py::object& stream);

}  // namespace tensorferry::python
