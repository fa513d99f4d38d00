#include "metrics_text.h"

#include <tensorferry/transport/version.h>

#include <cstdio>

namespace tensorferry::server {
namespace {

// Label values: backslash, quote and newline are escaped.
std::string in_quotes(std::string_view value) {
  std::string text = "\"";
  for (char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    if (c == '\n') {
      text += "\\n";
    } else {
      text += c;
    }
  }
  return text + "\"";
}

std::string seconds(std::uint64_t ns) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.9f", static_cast<double>(ns) / 1e9);
  return buffer;
}

class Text {
 public:
  void family(const char* name, const char* type, const char* help) {
    name_ = name;
    out_ += "# HELP " + name_ + " " + help + "\n# TYPE " + name_ + " " + type + "\n";
  }
  void sample(const std::string& labels, const std::string& value) {
    out_ += name_ + "{" + labels + "} " + value + "\n";
  }
  void sample(const std::string& labels, std::uint64_t value) {
    sample(labels, std::to_string(value));
  }
  std::string take() { return std::move(out_); }

 private:
  std::string name_;
  std::string out_;
};

std::string label(const ModelStatistics& model) {
  return "model=" + in_quotes(model.name) + ",version=" + in_quotes(std::to_string(model.version));
}

std::string label(const ModelStatistics& model, const InstanceStatistics& instance) {
  return label(model) + ",instance=" + in_quotes(instance.name);
}

}  // namespace

std::string metrics_text(std::span<const ModelStatistics> models, const CopyCounts& copies) {
  Text text;
  text.family("tensorferry_build_info", "gauge", "Version and build of the server.");
  text.sample("version=" + in_quotes(kVersion) + ",build=" + in_quotes(kBuildId), 1);
  text.family("tensorferry_requests_total", "counter", "Requests that ended, by outcome.");
  for (const auto& model : models) {
    text.sample(label(model) + ",outcome=\"success\"", model.succeeded);
    text.sample(label(model) + ",outcome=\"failure\"", model.failed);
    text.sample(label(model) + ",outcome=\"cancelled\"", model.cancelled);
  }
  text.family("tensorferry_executions_total", "counter", "Calls of the model's execute().");
  for (const auto& model : models) text.sample(label(model), model.executions);
  text.family(
      "tensorferry_request_duration_seconds_total", "counter",
      "Time of all ended requests, by stage: total, queue; execute is per call of execute().");
  for (const auto& model : models) {
    text.sample(label(model) + ",stage=\"total\"", seconds(model.total_ns));
    text.sample(label(model) + ",stage=\"queue\"", seconds(model.queue_ns));
    text.sample(label(model) + ",stage=\"execute\"", seconds(model.execute_ns));
  }
  text.family("tensorferry_queue_depth", "gauge", "Requests that wait for an instance.");
  for (const auto& model : models) text.sample(label(model), model.queued);
  text.family("tensorferry_ready", "gauge", "1 when the model has an instance that can execute.");
  for (const auto& model : models) text.sample(label(model), model.ready ? 1 : 0);
  text.family("tensorferry_arena_bytes", "gauge", "Bytes of the model's host arena.");
  for (const auto& model : models) {
    text.sample(label(model) + ",state=\"in_use\"", model.arena_bytes_in_use);
    text.sample(label(model) + ",state=\"allocated\"", model.arena_bytes);
    text.sample(label(model) + ",state=\"peak\"", model.arena_peak_bytes);
  }
  text.family("tensorferry_gpu_arena_bytes", "gauge", "Bytes of the model's arena on a GPU.");
  for (const auto& model : models) {
    for (const auto& gpu : model.gpus) {
      const std::string labels = label(model) + ",uuid=" + in_quotes(gpu.uuid);
      text.sample(labels + ",state=\"in_use\"", gpu.arena_bytes_in_use);
      text.sample(labels + ",state=\"allocated\"", gpu.arena_bytes);
      text.sample(labels + ",state=\"peak\"", gpu.arena_peak_bytes);
    }
  }
  text.family("tensorferry_gpu_transport", "gauge",
              "1: how the GPU's memory is shared with stubs; by instance where one differs.");
  for (const auto& model : models) {
    for (const auto& gpu : model.gpus) {
      text.sample(
          label(model) + ",uuid=" + in_quotes(gpu.uuid) + ",transport=" + in_quotes(gpu.transport),
          1);
      for (const auto& stub : gpu.stubs) {
        text.sample(label(model) + ",instance=" + in_quotes(stub.instance) +
                        ",uuid=" + in_quotes(gpu.uuid) + ",transport=" + in_quotes(stub.transport),
                    1);
      }
    }
  }
  text.family("tensorferry_gpu_rung_changes_total", "counter",
              "Stubs for which the model's transport did not work.");
  for (const auto& model : models) {
    for (const auto& gpu : model.gpus)
      text.sample(label(model) + ",uuid=" + in_quotes(gpu.uuid), gpu.rung_changes);
  }
  text.family("tensorferry_stub_restarts_total", "counter", "Stubs started again after they died.");
  for (const auto& model : models) {
    for (const auto& instance : model.instances)
      text.sample(label(model, instance), instance.restarts);
  }
  text.family("tensorferry_stub_pss_bytes", "gauge", "Proportional set size of the stub process.");
  for (const auto& model : models) {
    for (const auto& instance : model.instances)
      text.sample(label(model, instance), instance.pss_bytes);
  }
  text.family("tensorferry_copied_bytes_total", "counter", "Payload copied, by process and kind.");
  for (std::size_t kind = 0; kind < kCopyKinds; ++kind) {
    text.sample("process=\"server\",kind=" + in_quotes(to_string(static_cast<CopyKind>(kind))),
                copies.bytes[kind]);
  }
  for (const auto& model : models) {
    text.sample("process=\"stub\",kind=\"host\"," + label(model), model.stub_copied_bytes);
  }
  return text.take();
}

}  // namespace tensorferry::server
