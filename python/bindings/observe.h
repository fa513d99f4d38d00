// Counters of other processes, and what this build can trace to.
#pragma once

#include <pybind11/pybind11.h>

namespace tensorferry::python {

void bind_observe(pybind11::module_& module);

}  // namespace tensorferry::python
