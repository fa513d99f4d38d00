// DLPack out of and into `pb_utils.Tensor`, without a copy: NumPy, PyTorch, CuPy and JAX take the
// memory as it is. Sources: the DLPack specification 1.x and the array API standard's Python rules.
#pragma once

#include "py.h"

namespace tensorferry::stub {

// Methods of Tensor. A capsule keeps one reference to the tensor until its deleter runs.
PyObject* tensor_to_dlpack(PyObject* self, PyObject*);
PyObject* tensor_dlpack(PyObject* self, PyObject* args, PyObject* keywords);
PyObject* tensor_dlpack_device(PyObject* self, PyObject*);
PyObject* tensor_from_dlpack(PyObject*, PyObject* args);

}  // namespace tensorferry::stub
