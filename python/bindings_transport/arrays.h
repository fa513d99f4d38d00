// NumPy arrays over memory of the bare transport, and what of NumPy's types crosses.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <tensorferry/transport/endpoint.h>

#include <memory>
#include <string>
#include <vector>

namespace tensorferry {

namespace py = pybind11;

// The base of an array in memory of ours. Sending the array takes `shared` out; `mapping` keeps
// what is left readable.
struct Owner {
  SharedBytes shared;
  std::shared_ptr<const void> mapping;  // empty: the bytes are `small`
  std::vector<std::byte> small;
};

// Raises tensorferry.transport.TransportError.
[[noreturn]] void raise(const Error& error);

template <class T>
T value_of(Result<T> result) {
  if (!result) raise(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// TypeError for what doesn't cross: objects and texts, other byte orders, complex numbers, dates.
DType dtype_of(const py::dtype& dtype);

// An array over the owner's bytes, which it keeps.
py::array array_over(std::unique_ptr<Owner> owner, std::span<std::byte> bytes, DType dtype,
                     const std::vector<std::int64_t>& shape);
// The same over memory that outlives the array.
py::array view_of(std::span<std::byte> bytes, DType dtype, const std::vector<std::int64_t>& shape);
// A tensor that was received. BYTES become a new array of bytes objects.
py::array received_array(EndpointTensor& tensor);

// Of an array of ours, as it was made, not a view or a part of it; else nullptr.
Owner* owner_of(const py::array& array);
bool is_writeable(const py::array& array);
void set_writeable(const py::array& array, bool writeable);

}  // namespace tensorferry
