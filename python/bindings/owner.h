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
// What one request was given, until it is sent: a request that is refused leaves its arrays as they
// were. The GIL guards it.
class Gifts {
 public:
  Gifts() = default;
  ~Gifts() { take_back(); }
  Gifts(const Gifts&) = delete;
  Gifts& operator=(const Gifts&) = delete;

  bool has(const Owner& owner) const noexcept;
  // Marks the memory as given, and turns the array over it (None: there is none) read-only.
  // `keeper` keeps the memory.
  void add(Owner& owner, const py::object& keeper, const py::object& array);
  // It was sent: what was given is the model's.
  void sent() noexcept;
  // It was refused.
  void take_back() noexcept;

 private:
  struct Gift {
    Owner* owner;
    py::object keeper;
  };
  std::vector<Gift> gifts_;
  std::vector<py::object> turned_;  // arrays that were writable before
};

}  // namespace tensorferry::python
