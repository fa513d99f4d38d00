// Heap types over the Limited API: making them, their objects' memory, and reading arguments.
#pragma once

#include "py.h"

namespace tensorferry::stub {

// Makes the type, adds it to the module under `name`, and gives a reference that is never dropped.
// nullptr with an exception set on failure.
PyTypeObject* add_type(PyObject* module, const char* name, PyType_Spec& spec);
// Zeroed memory for one object; the caller constructs what C++ needs constructed.
PyObject* allocate_object(PyTypeObject* type);
// The end of a dealloc: frees the memory and drops the object's reference to its type.
void free_object(PyObject* object);

// pb_utils' exception; set once by the Python half.
// The format is PyErr_Format's.
void raise_model_exception(const char* format, ...);
void set_model_exception(PyObject* type);

}  // namespace tensorferry::stub
