#include "observe.h"

#include <tensorferry/transport/counters.h>
#include <tensorferry/transport/trace.h>

#include "errors.h"

namespace tensorferry::python {
namespace {

// What another process wrote may be no UTF-8.
py::str text_of(const std::string& bytes) {
  auto text = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace"));
  if (!text) throw py::error_already_set();
  return text;
}

py::list read_counters(int pid) {
  using namespace py::literals;
  Result<std::vector<CounterSample>> samples;
  {
    py::gil_scoped_release released;
    samples = read_process_counters(pid);
  }
  py::list result;
  for (const CounterSample& sample : value_of(std::move(samples))) {
    py::dict labels;
    for (const auto& [key, value] : sample.labels) labels[text_of(key)] = text_of(value);
    result.append(
        py::dict("name"_a = text_of(sample.name), "labels"_a = labels, "value"_a = sample.value));
  }
  return result;
}

}  // namespace

void bind_observe(py::module_& module) {
  module.attr("knows_nvtx") = trace_knows_nvtx();
  module.def("read_counters", &read_counters, py::arg("pid"),
             "The counters of a process: name, labels and value of each.");
  module.def(
      "trace_to_files", [](std::string folder) { value_of(trace_to_files(std::move(folder))); },
      py::arg("folder"),
      "Writes spans to files there, as TENSORFERRY_TRACE does. Once per process.");
  module.def("end_trace", &end_trace, py::call_guard<py::gil_scoped_release>(),
             "Writes what was recorded, and records no more.");
}

}  // namespace tensorferry::python
