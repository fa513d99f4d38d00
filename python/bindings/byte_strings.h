// BYTES between Python objects and Triton's layout (transport/byte_strings.h).
#pragma once

#include <pybind11/numpy.h>
#include <tensorferry/server/model.h>

#include "owner.h"

namespace tensorferry::python {

// The elements in C order: bytes as they are, anything else by str() in UTF-8. One counted copy.
// Raises what str() raises, ValueError for an element of more than 4 GiB.
server::Buffer encode_strings(server::Model& model, const py::array& array);

// An object array of bytes in the owner's shape. ValueError where the bytes are no such tensor:
// they may lie where the stub still writes.
py::array decode_strings(const Owner& owner);

}  // namespace tensorferry::python
