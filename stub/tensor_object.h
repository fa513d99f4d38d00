// `pb_utils.Tensor`: a name and either a NumPy array or memory that nobody has asked an array of.
#pragma once

#include <cstdint>
#include <span>

#include "memory_object.h"
#include "py.h"

namespace tensorferry::stub {

struct TensorObject {
  PyObject_HEAD PyObject* name;  // str
  PyObject* array;               // what as_numpy() gives, once there is one
  PyObject* memory;              // Memory, until there is an array that keeps it
  PyObject* host_copy;           // on a device, whose memory stays: what as_numpy() gives
  PyObject* weak_references;
  DType dtype;
};

bool make_tensor_type(PyObject* module);
bool is_tensor(PyObject* object) noexcept;
inline TensorObject* as_tensor(PyObject* object) noexcept {
  return reinterpret_cast<TensorObject*>(object);
}

// A tensor over memory: an input, or what another library gave.
PyRef new_tensor(PyRef name, PyRef memory);
// The array, made at the first call. nullptr with an exception set where NumPy has no such type.
PyObject* tensor_array(TensorObject* tensor);
std::span<const std::int64_t> tensor_shape(const TensorObject* tensor);
// That the array still has the dtype that it had: NumPy lets it be changed in place. False with
// pb_utils' exception set.
bool check_dtype(const TensorObject* tensor);
// False with pb_utils' exception set for an empty name.
bool check_name(PyObject* name);

}  // namespace tensorferry::stub
