// The few entries of NumPy's C interface that the stub uses, found at run time: the stub starts
// without NumPy and runs with every version that the model brings. All need the GIL.
//
// Sources: NumPy's ndarraytypes.h and multiarray API table, whose places and layouts are the same
// from 1.13 to 2.x; load() compares them with a real array before anything relies on them.
#pragma once

#include <tensorferry/transport/dtype.h>

#include <cstdint>
#include <optional>
#include <span>

#include "py.h"

namespace tensorferry::stub::numpy {

struct Descr {
  PyObject head;
  PyTypeObject* type_object;
  char kind;  // 'f', 'i', 'O', 'S', ...
  char type;
  char byteorder;  // '=' and '|': this machine's
  char former_flags;
  int type_number;
};

struct Array {
  PyObject head;
  char* data;
  int rank;
  Py_ssize_t* shape;
  Py_ssize_t* strides;  // bytes
  PyObject* base;
  Descr* descr;
  int flags;
};

// Imports NumPy if the model has not; false with an exception set when it can't be had.
bool load();
// `then` runs once, inside the load() that is the first to succeed, which fails if it returns
// false.
void when_loaded(bool (*then)());
// True when the model has imported NumPy; never imports it.
bool is_imported();
// NumPy's table of C functions, after load().
void* entry(std::size_t place);

// The object as an array (of any subclass), or nullptr. After load().
Array* as_array(PyObject* object) noexcept;
bool is_packed(const Array& array) noexcept;  // C order and aligned
bool is_native(const Array& array) noexcept;
bool is_writeable(const Array& array) noexcept;
std::size_t bytes_of(const Array& array, std::size_t element_bytes) noexcept;
// kBytes for object and fixed-width bytes arrays; nothing where Triton has no such type.
std::optional<DType> dtype_of(const Array& array) noexcept;

struct Bytes {
  std::byte* data = nullptr;
  bool read_only = false;
};
// An array over those bytes, kept alive by `base`. nullptr with an exception set on failure.
PyRef array_over(DType dtype, std::span<const std::int64_t> shape, Bytes bytes, PyRef base);
// An object array with one slot per element, all empty (None to NumPy).
PyRef object_array(std::span<const std::int64_t> shape);

}  // namespace tensorferry::stub::numpy
