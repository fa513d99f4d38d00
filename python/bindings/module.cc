// tensorferry._server: the embedded server for Python. tensorferry/server.py is the face that users
// see.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <tensorferry/server/repository_check.h>
#include <tensorferry/server/server.h>
#include <tensorferry/transport/version.h>

#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "calls.h"
#include "errors.h"

namespace tensorferry::python {
namespace {

using server::Model;
using server::Server;
using server::ServerOptions;

class PyModel {
 public:
  explicit PyModel(Model model) : model_(std::move(model)) {}

  const std::string& name() const { return model_.name(); }
  std::int64_t version() const { return model_.version(); }
  std::string config() const { return model_.config().json; }
  bool ready() const { return model_.ready(); }

  py::array empty(const std::vector<std::int64_t>& shape, const py::dtype& dtype) {
    return empty_array(model_, shape, dtype);
  }

  PyCall submit(const py::dict& inputs, const py::object& outputs, const py::object& parameters,
                const std::string& request_id, std::uint64_t priority,
                std::optional<double> timeout) {
    server::Request request;
    fill_request(model_, request, {inputs, outputs, parameters, request_id, priority, timeout});
    return PyCall(submit_request(model_, request));
  }
  py::object infer() const { return infer_function(model_); }

 private:
  Model model_;
};

py::dict statistics_of(const server::ModelStatistics& model) {
  using namespace py::literals;
  py::list instances;
  for (const auto& one : model.instances) {
    instances.append(py::dict("name"_a = one.name, "pid"_a = one.pid, "state"_a = one.state,
                              "restarts"_a = one.restarts, "pss_bytes"_a = one.pss_bytes,
                              "arena_bytes"_a = one.arena_bytes,
                              "arena_peak_bytes"_a = one.arena_peak_bytes,
                              "answers_out_bytes"_a = one.answers_out_bytes));
  }
  return py::dict("name"_a = model.name, "version"_a = model.version, "ready"_a = model.ready,
                  "succeeded"_a = model.succeeded, "failed"_a = model.failed,
                  "cancelled"_a = model.cancelled, "executions"_a = model.executions,
                  "queue_ns"_a = model.queue_ns, "execute_ns"_a = model.execute_ns,
                  "total_ns"_a = model.total_ns, "stub_copied_bytes"_a = model.stub_copied_bytes,
                  "queued"_a = model.queued, "in_flight"_a = model.in_flight,
                  "arena_bytes_in_use"_a = model.arena_bytes_in_use,
                  "arena_bytes"_a = model.arena_bytes,
                  "arena_peak_bytes"_a = model.arena_peak_bytes, "instances"_a = instances);
}

class PyServer {
 public:
  PyServer(const std::string& repository, std::optional<std::vector<std::string>> models,
           const std::string& payload, const std::string& python, const py::dict& options) {
    ServerOptions settings;
    settings.models = std::move(models);
    settings.payload = payload;
    settings.python = python;
    auto number = [&](const char* key, auto& field) {
      if (options.contains(key))
        field = options[key].cast<std::remove_reference_t<decltype(field)>>();
    };
    number("arena_initial_bytes", settings.arena_initial_bytes);
    number("arena_growth_bytes", settings.arena_growth_bytes);
    number("arena_max_bytes", settings.arena_max_bytes);
    number("max_queue", settings.max_queue);
    auto seconds = [&](const char* key, std::chrono::milliseconds& field) {
      if (options.contains(key))
        field = std::chrono::milliseconds(
            static_cast<std::int64_t>(options[key].cast<double>() * 1000));
    };
    seconds("load_timeout", settings.load_timeout);
    seconds("trim_after", settings.trim_after);
    seconds("drain_timeout", settings.drain_timeout);
    seconds("finalize_timeout", settings.finalize_timeout);
    if (options.contains("quiet") && options["quiet"].cast<bool>())
      settings.logger = stderr_logger(LogLevel::Error);
    py::gil_scoped_release released;
    auto started = Server::start(repository, std::move(settings));
    if (!started) {
      py::gil_scoped_acquire held;
      raise(started.error());
    }
    server_ = std::move(*started);
  }
  ~PyServer() {
    py::gil_scoped_release released;
    server_.reset();
  }

  PyModel model(const std::string& name, std::optional<std::int64_t> version) const {
    return PyModel(value_of(server_->model(name, version)));
  }
  std::vector<std::string> names() const { return server_->model_names(); }
  void load(const std::string& name) {
    without_gil([&] { return server_->load(name); });
  }
  void unload(const std::string& name) {
    without_gil([&] { return server_->unload(name); });
  }
  bool ready(const std::optional<std::string>& name) const {
    return name ? server_->ready(*name) : server_->ready();
  }
  py::list statistics() const {
    std::vector<server::ModelStatistics> all;
    {
      py::gil_scoped_release released;
      all = server_->statistics();
    }
    py::list result;
    for (const auto& model : all) result.append(statistics_of(model));
    return result;
  }
  std::string metrics() const { return server_->metrics(); }
  void shutdown() {
    py::gil_scoped_release released;
    server_->shutdown();
  }

 private:
  template <class Function>
  void without_gil(Function&& function) {
    Result<void> result;
    {
      py::gil_scoped_release released;
      result = function();
    }
    if (!result) raise(result.error());
  }
  std::unique_ptr<Server> server_;
};

py::dict copies() {
  using namespace py::literals;
  CopyCounts counts = copy_counts();
  return py::dict("host_calls"_a = counts.calls_of(CopyKind::Host),
                  "host_bytes"_a = counts.bytes_of(CopyKind::Host),
                  "inline_calls"_a = counts.calls_of(CopyKind::Inline),
                  "inline_bytes"_a = counts.bytes_of(CopyKind::Inline));
}

py::list check(const std::string& repository) {
  using namespace py::literals;
  py::list result;
  for (const auto& model : value_of(server::check_repository(repository))) {
    py::list diagnostics;
    for (const auto& one : model.diagnostics) {
      diagnostics.append(py::dict(
          "severity"_a = one.severity == server::Diagnostic::Severity::Error ? "error" : "warning",
          "file"_a = one.file, "line"_a = one.line, "column"_a = one.column,
          "message"_a = one.message));
    }
    result.append(py::dict("name"_a = model.name, "diagnostics"_a = diagnostics));
  }
  return result;
}

}  // namespace

PYBIND11_MODULE(_server, module) {
  module.doc() = "The embedded server.";
  module.attr("__version__") = std::string(kVersion);
  module.attr("build_id") = std::string(kBuildId);
  bind_arrays(module);
  bind_calls(module);
  py::class_<PyModel>(module, "Model")
      .def_property_readonly("name", &PyModel::name)
      .def_property_readonly("version", &PyModel::version)
      .def_property_readonly("config", &PyModel::config)
      .def("ready", &PyModel::ready)
      .def("empty", &PyModel::empty, py::arg("shape"), py::arg("dtype"))
      .def_property_readonly("infer", &PyModel::infer)
      .def("submit", &PyModel::submit, py::arg("inputs"), py::arg("outputs"), py::arg("parameters"),
           py::arg("request_id"), py::arg("priority"), py::arg("timeout"));
  py::class_<PyServer>(module, "Server")
      .def(py::init<const std::string&, std::optional<std::vector<std::string>>, const std::string&,
                    const std::string&, const py::dict&>(),
           py::arg("repository"), py::arg("models"), py::arg("payload"), py::arg("python"),
           py::arg("options"))
      .def("model", &PyServer::model, py::arg("name"), py::arg("version") = py::none())
      .def("names", &PyServer::names)
      .def("load", &PyServer::load, py::arg("name"))
      .def("unload", &PyServer::unload, py::arg("name"))
      .def("ready", &PyServer::ready, py::arg("name") = py::none())
      .def("statistics", &PyServer::statistics)
      .def("metrics", &PyServer::metrics)
      .def("shutdown", &PyServer::shutdown);
  module.def("copy_counts", &copies,
             "Payload copied in this process since it started: calls and bytes.");
  module.def(
      "config_to_json",
      [](const std::string& text, const std::string& filename) {
        return value_of(server::config_to_json(text, filename));
      },
      py::arg("text"), py::arg("filename"), "A config.pbtxt as JSON.");
  module.def("check_repository", &check, py::arg("path"),
             "Errors and warnings of each model's config.");
}

}  // namespace tensorferry::python
