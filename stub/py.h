// Small helpers over the Limited API: an owner of references, errors, and what a type's slots need.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string>
#include <string_view>
#include <utility>

namespace tensorferry::stub {

// Owns one reference. The GIL must be held wherever it is used.
class PyRef {
 public:
  PyRef() = default;
  explicit PyRef(PyObject* owned) noexcept : object_(owned) {}
  static PyRef borrow(PyObject* object) noexcept {
    Py_XINCREF(object);
    return PyRef(object);
  }
  PyRef(PyRef&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  PyRef& operator=(PyRef&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~PyRef() { Py_XDECREF(object_); }
  PyObject* get() const noexcept { return object_; }
  PyObject* release() noexcept { return std::exchange(object_, nullptr); }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

// What `function` returns, which may wait and touches nothing of Python.
template <class Function>
auto without_gil(Function&& function) {
  struct Released {
    PyThreadState* thread = PyEval_SaveThread();
    ~Released() { PyEval_RestoreThread(thread); }
  } released;
  return function();
}

inline PyRef text(std::string_view value) {
  return PyRef(
      PyUnicode_DecodeUTF8(value.data(), static_cast<Py_ssize_t>(value.size()), "replace"));
}

// UTF-8 of a str, with an escape for each surrogate that stands alone; empty and an exception set
// where it is none.
inline std::string to_string(PyObject* object) {
  PyRef bytes(PyUnicode_AsEncodedString(object, "utf-8", "backslashreplace"));
  if (!bytes) return {};
  return {PyBytes_AsString(bytes.get()), static_cast<std::size_t>(PyBytes_Size(bytes.get()))};
}

}  // namespace tensorferry::stub
