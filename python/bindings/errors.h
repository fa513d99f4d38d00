// Errors of the library as exceptions of tensorferry.errors. The GIL must be held.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/transport/error.h>

#include <chrono>
#include <type_traits>
#include <utility>

namespace tensorferry::python {

namespace py = pybind11;

[[noreturn]] inline void raise(const Error& error) {
  py::object make = py::module_::import("tensorferry.errors").attr("_make");
  py::object exception =
      make(error.message, std::string(to_string(error.code)), error.context.model,
           error.context.instance, error.context.request_id);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw py::error_already_set();
}

// How long a wait goes on before Python looks for signals (Ctrl-C).
inline constexpr std::chrono::milliseconds kSignalSlice{200};

template <class T>
T value_of(Result<T> result) {
  if (!result) raise(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace tensorferry::python
