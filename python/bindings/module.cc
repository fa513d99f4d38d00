// tensorferry._server: the embedded server for Python. tensorferry/server.py is the face that users
// see.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/server/repository_check.h>
#include <tensorferry/server/server.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/memory_limit.h>
#include <tensorferry/transport/version.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "arrays.h"
#include "calls.h"
#include "device_arrays.h"
#include "errors.h"
#include "observe.h"

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
  bool ready() const {
    value_of(model_.check_process());
    return model_.ready();
  }

  py::object empty(const std::vector<std::int64_t>& shape, const py::dtype& dtype,
                   const py::object& device) {
    const auto ordinal = cuda_ordinal(device);
    if (ordinal) return empty_on_device(model_, shape, dtype, *ordinal);
    return empty_array(model_, shape, dtype);
  }

  PyCall submit(const py::dict& inputs, const py::object& outputs, const py::object& parameters,
                const std::string& request_id, std::uint64_t priority,
                std::optional<double> timeout, const py::object& stream) {
    return submit_request(model_,
                          {inputs, outputs, parameters, request_id, priority, timeout, stream});
  }
  py::object infer() const { return infer_function(model_); }

 private:
  Model model_;
};

// Those that go by other means than the model's others.
py::dict stubs_of(const server::GpuStatistics& gpu) {
  using namespace py::literals;
  py::dict stubs;
  for (const auto& one : gpu.stubs)
    stubs[py::str(one.instance)] = py::dict("transport"_a = one.transport, "reason"_a = one.reason);
  return stubs;
}

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
  py::dict gpus;
  for (const auto& one : model.gpus) {
    gpus[py::str("cuda:" + std::to_string(one.device))] = py::dict(
        "uuid"_a = one.uuid, "transport"_a = one.transport,
        "transport_reason"_a = one.transport_reason, "stubs"_a = stubs_of(one),
        "rung_changes"_a = one.rung_changes, "arena_bytes_in_use"_a = one.arena_bytes_in_use,
        "arena_bytes"_a = one.arena_bytes, "arena_peak_bytes"_a = one.arena_peak_bytes);
  }
  return py::dict(
      "name"_a = model.name, "version"_a = model.version, "ready"_a = model.ready,
      "succeeded"_a = model.succeeded, "failed"_a = model.failed, "cancelled"_a = model.cancelled,
      "executions"_a = model.executions, "queue_ns"_a = model.queue_ns,
      "execute_ns"_a = model.execute_ns, "total_ns"_a = model.total_ns,
      "stub_copied_bytes"_a = model.stub_copied_bytes, "queued"_a = model.queued,
      "in_flight"_a = model.in_flight, "arena_bytes_in_use"_a = model.arena_bytes_in_use,
      "arena_bytes"_a = model.arena_bytes, "arena_peak_bytes"_a = model.arena_peak_bytes,
      "arena_pinned_bytes"_a = model.arena_pinned_bytes, "gpus"_a = gpus,
      "instances"_a = instances);
}

// Runs `work(stop_token)` on a thread of its own, so that a signal's exception (Ctrl-C) can end it.
// Called with the GIL, which is released meanwhile.
template <class Work>
auto interruptible(Work&& work) {
  std::stop_source stop;
  auto outcome = std::async(std::launch::async, [&] { return work(stop.get_token()); });
  while (true) {
    {
      py::gil_scoped_release released;
      if (outcome.wait_for(kSignalSlice) == std::future_status::ready) return outcome.get();
    }
    if (PyErr_CheckSignals() == 0) continue;
    stop.request_stop();
    py::gil_scoped_release released;
    (void)outcome.get();  // a server that was ready just then ends here
    break;
  }
  throw py::error_already_set();
}

// A Server's keyword options. Raises a TypeError for what it doesn't know.
class Options {
 public:
  explicit Options(const py::dict& given) : given_(given) {}

  template <class Field>
  void number(const char* name, Field& field) {
    if (is_given(name)) field = given_[name].cast<Field>();
  }
  void seconds(const char* name, std::chrono::milliseconds& field) {
    if (!is_given(name)) return;
    field =
        std::chrono::milliseconds(static_cast<std::int64_t>(given_[name].cast<double>() * 1000));
  }
  bool flag(const char* name) { return is_given(name) && given_[name].cast<bool>(); }
  // After all that are known were asked for.
  void refuse_others() const {
    for (const auto& [key, value] : given_) {
      const auto name = key.cast<std::string>();
      if (std::ranges::find(known_, name) != known_.end()) continue;
      std::string known;
      for (const std::string& one : known_) known += (known.empty() ? "" : ", ") + one;
      throw py::type_error("Server() has no option '" + name + "'; there are models, python, " +
                           known);
    }
  }

 private:
  bool is_given(const char* name) {
    known_.emplace_back(name);
    return given_.contains(name);
  }
  py::dict given_;
  std::vector<std::string> known_;
};

ServerOptions server_options(const py::dict& given) {
  ServerOptions settings;
  Options options(given);
  options.number("arena_initial_bytes", settings.arena_initial_bytes);
  options.number("arena_growth_bytes", settings.arena_growth_bytes);
  options.number("arena_max_bytes", settings.arena_max_bytes);
  options.number("max_queue", settings.max_queue);
  options.seconds("load_timeout", settings.load_timeout);
  options.seconds("trim_after", settings.trim_after);
  options.seconds("drain_timeout", settings.drain_timeout);
  options.seconds("finalize_timeout", settings.finalize_timeout);
  if (options.flag("quiet")) settings.logger = stderr_logger(LogLevel::Error);
  options.refuse_others();
  return settings;
}

class PyServer {
 public:
  PyServer(const std::string& repository, std::optional<std::vector<std::string>> models,
           const std::string& payload, const std::string& python, const py::dict& options) {
    ServerOptions settings = server_options(options);
    settings.models = std::move(models);
    settings.payload = payload;
    settings.python = python;
    server_ = value_of(interruptible([&](std::stop_token stop) {
      settings.stop = std::move(stop);
      return Server::start(repository, settings);
    }));
  }
  ~PyServer() {
    py::gil_scoped_release released;
    server_.reset();
  }

  PyModel model(const std::string& name, std::optional<std::int64_t> version) const {
    return PyModel(value_of(server_->model(name, version)));
  }
  std::vector<std::string> names() const {
    value_of(server_->check_process());
    return server_->model_names();
  }
  void load(const std::string& name) {
    value_of(server_->check_process());  // before a thread is started for it
    auto loaded =
        interruptible([&](const std::stop_token& stop) { return server_->load(name, stop); });
    value_of(loaded);
  }
  void unload(const std::string& name) {
    without_gil([&] { return server_->unload(name); });
  }
  bool ready(const std::optional<std::string>& name) const {
    value_of(server_->check_process());
    return name ? server_->ready(*name) : server_->ready();
  }
  py::list statistics() const {
    value_of(server_->check_process());
    std::vector<server::ModelStatistics> all;
    {
      py::gil_scoped_release released;
      all = server_->statistics();
    }
    py::list result;
    for (const auto& model : all) result.append(statistics_of(model));
    return result;
  }
  std::string metrics() const {
    value_of(server_->check_process());
    return server_->metrics();
  }
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
    value_of(result);
  }
  std::unique_ptr<Server> server_;
};

py::dict copies() {
  using namespace py::literals;
  CopyCounts counts = copy_counts();
  return py::dict("host_calls"_a = counts.calls_of(CopyKind::Host),
                  "host_bytes"_a = counts.bytes_of(CopyKind::Host),
                  "inline_calls"_a = counts.calls_of(CopyKind::Inline),
                  "inline_bytes"_a = counts.bytes_of(CopyKind::Inline),
                  "h2d_calls"_a = counts.calls_of(CopyKind::HostToDevice),
                  "h2d_bytes"_a = counts.bytes_of(CopyKind::HostToDevice),
                  "d2h_calls"_a = counts.calls_of(CopyKind::DeviceToHost),
                  "d2h_bytes"_a = counts.bytes_of(CopyKind::DeviceToHost),
                  "d2d_calls"_a = counts.calls_of(CopyKind::DeviceToDevice),
                  "d2d_bytes"_a = counts.bytes_of(CopyKind::DeviceToDevice),
                  "peer_calls"_a = counts.calls_of(CopyKind::Peer),
                  "peer_bytes"_a = counts.bytes_of(CopyKind::Peer));
}

// What the driver says, or why there is none; of each device how its memory would be shared.
py::dict gpus() {
  using namespace py::literals;
  py::dict result("driver"_a = py::none(), "why"_a = "", "devices"_a = py::list());
  auto driver = cuda::Driver::get();
  auto asked = cuda::gpu_transport_from_environment();
  auto devices = driver ? cuda::devices() : std::unexpected(driver.error());
  if (driver) result["driver"] = (*driver)->info().version;
  if (!devices || !asked) {
    result["why"] = devices ? asked.error().message : devices.error().message;
    return result;
  }
  for (const cuda::Device& device : *devices) {
    const cuda::Plan plan = cuda::plan_rungs(device, *asked);
    const cuda::Rung first = plan.attempts.empty() ? plan.last : plan.attempts.front().rung;
    result["devices"].cast<py::list>().append(
        py::dict("ordinal"_a = device.ordinal, "uuid"_a = to_string(device.uuid),
                 "transport"_a = std::string(to_string(first)), "reason"_a = plan.reason));
  }
  return result;
}

py::list limits() {
  using namespace py::literals;
  py::list result;
  for (const MemoryLimit& one : memory_limits()) {
    result.append(py::dict("source"_a = one.source.string(), "limit_bytes"_a = one.limit,
                           "used_bytes"_a = one.used));
  }
  return result;
}

py::list check_repository(const std::string& repository) {
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
  bind_observe(module);
  py::class_<PyModel>(module, "Model")
      .def_property_readonly("name", &PyModel::name)
      .def_property_readonly("version", &PyModel::version)
      .def_property_readonly("config", &PyModel::config)
      .def("ready", &PyModel::ready)
      .def("empty", &PyModel::empty, py::arg("shape"), py::arg("dtype"),
           py::arg("device") = py::none())
      .def_property_readonly("infer", &PyModel::infer)
      .def("submit", &PyModel::submit, py::arg("inputs"), py::arg("outputs"), py::arg("parameters"),
           py::arg("request_id"), py::arg("priority"), py::arg("timeout"),
           py::arg("stream") = py::none());
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
  module.def("gpus", &gpus,
             "The driver's version or None, why there is none, and the devices that this process "
             "sees. Makes no context.");
  module.def("memory_limits", &limits,
             "Whose limit, its bytes, and those in use: of the host and of each memory cgroup.");
  module.def("default_arena_max_bytes", &default_arena_max_bytes,
             "What an arena may take unless it is told otherwise.");
  module.def(
      "config_to_json",
      [](const std::string& text, const std::string& filename) {
        return value_of(server::config_to_json(text, filename));
      },
      py::arg("text"), py::arg("filename"), "A config.pbtxt as JSON.");
  module.def("check_repository", &check_repository, py::arg("path"),
             "Errors and warnings of each model's config.");
}

}  // namespace tensorferry::python
