// What keeps a tensor's memory on Python's side: a capsule that is the base of the arrays over it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <tensorferry/server/buffer.h>
#include <tensorferry/transport/dtype.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace tensorferry::python {

namespace py = pybind11;

// `given` once a request has the memory too: it is kept mapped and unused by others until this goes
// as well. `offered`: infer may take it (model.empty, tensorferry.give). The GIL guards it.
struct Owner {
  server::Buffer buffer;
  DType dtype;
  std::vector<std::int64_t> shape;  // C order
  bool offered = false;
  bool given = false;
};

py::object to_capsule(std::unique_ptr<Owner> owner);
// nullptr where it is another object.
Owner* from_capsule(PyObject* object);
// The same, with a TypeError for another object.
Owner& owner_in(const py::object& capsule);

// A writable array of NumPy's `dtype` in C order over the owner's bytes, and kept by it.
py::array array_over(DType dtype, const std::vector<std::int64_t>& shape, std::byte* data,
                     const py::object& base);

// Of which memory of ours an array is a view.
struct View {
  Owner* owner = nullptr;  // nullptr: of none
  bool alone = true;       // nobody holds the arrays between it and the memory but itself
};
View view_of(const py::array& array);
// Turns the array, and those between it and the memory, read-only.
void make_read_only(const py::array& array);

}  // namespace tensorferry::python
