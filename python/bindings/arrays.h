// NumPy arrays to request tensors and response tensors to arrays, without a copy where the memory
// allows it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <tensorferry/server/model.h>

#include <optional>
#include <string_view>
#include <vector>

#include "device_arrays.h"
#include "owner.h"

namespace tensorferry::python {

namespace py = pybind11;

void bind_arrays(py::module_& module);

// An uninitialised array in the model's host arena; its base is the owner that infer takes the
// memory from.
py::array empty_array(server::Model& model, const std::vector<std::int64_t>& shape,
                      const py::dtype& dtype);

// The same in device memory: a tensorferry.Tensor.
py::object empty_on_device(server::Model& model, const std::vector<std::int64_t>& shape,
                           const py::dtype& dtype, int ordinal);

// An input: an array of ours is given (moved), anything else is copied once: an array, a tensor
// with DLPack, an answer that is passed on. `gifts`: what this request was given so far; the same
// array once more is copied. `stream`: what the caller works on with what lies in device memory.
// Raises what the caller did wrong.
void to_tensor(server::Model& model, std::string_view name, const py::object& value, Gifts& gifts,
               std::optional<CallerStream> stream, server::Tensor& tensor);

// A tensorferry.server.Response with its tensors.
py::object to_python(server::Response& response);

}  // namespace tensorferry::python
