#include "config_rules.h"

#include <tensorferry/cuda/rung.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>

#include "config_schema.h"
#include "json_format.h"

namespace tensorferry::server {
namespace {

using schema::Field;
using schema::Handling;
using Severity = Diagnostic::Severity;

constexpr std::int64_t kMaxInstances = 1024;  // processes of one model
constexpr std::string_view kOurs = "TENSORFERRY_";
constexpr std::string_view kOurParameters[] = {
    "TENSORFERRY_PYTHON",         "TENSORFERRY_EXECUTE_TIMEOUT_S",
    "TENSORFERRY_SLOW_EXECUTE_S", "TENSORFERRY_GPU_POOL_BYTE_SIZE",
    "TENSORFERRY_GPU_TRANSPORT",  "TENSORFERRY_STRICT"};

// What holds for a use: its own decision, else the nearest parent's.
const Field& decider(const FieldUse& use) {
  if (use.field->handling != Handling::Inherit) return *use.field;
  for (auto it = use.parents.rbegin(); it != use.parents.rend(); ++it) {
    if ((*it)->handling != Handling::Inherit) return **it;
  }
  return *use.field;
}

class Interpreter {
 public:
  Interpreter(const Document& document, std::string_view source, std::string_view model_name)
      : document_(document), source_(source), model_name_(model_name) {}

  Interpreted run() {
    full_ = with_defaults(document_.value, model_config_schema());
    decisions();
    identity();
    batching();
    tensors("input", result_.config.inputs);
    tensors("output", result_.config.outputs);
    instance_groups();
    parameters();
    version_policy();
    result_.config.json = full_.dump(-1, ' ', false, Json::error_handler_t::replace);
    return std::move(result_);
  }

 private:
  void say(Severity severity, const std::string& path, const std::string& message) {
    Position at = document_.position(path);
    result_.diagnostics.push_back({severity, std::string(source_), at.line, at.column, message});
  }
  void error(const std::string& path, const std::string& message) {
    say(Severity::Error, path, message);
  }
  void warning(const std::string& path, const std::string& message) {
    say(Severity::Warning, path, message);
  }

  // A field set to its default asks for nothing, so there is nothing to refuse.
  void decisions() {
    std::set<const Field*> said;
    for (const FieldUse& use : document_.uses) {
      const Field& field = decider(use);
      if (use.is_default || field.handling == Handling::Honoured ||
          field.handling == Handling::Inherit)
        continue;
      if (!said.insert(&field).second) continue;
      if (field.handling == Handling::Ignored) {
        warning(use.path,
                "'" + std::string(field.name) + "' is ignored: " + std::string(field.note));
      } else {
        error(use.path,
              "'" + std::string(field.name) + "' is not supported: " + std::string(field.note));
      }
    }
  }

  void identity() {
    ModelConfig& config = result_.config;
    config.name = model_name_;
    std::string name = full_["name"];
    if (!name.empty() && name != model_name_) {
      error("name", "the model's name is '" + name + "', but its folder is '" +
                        std::string(model_name_) + "': make them the same, or leave the name out");
    }
    full_["name"] = config.name;
    std::string backend = full_["backend"];
    if (backend.empty()) backend = "python";
    if (backend != "python" && backend != "tensorferry") {
      error("backend", "backend '" + backend +
                           "' is not served here: it must be \"python\" or \"tensorferry\"");
    }
    full_["backend"] = config.backend = backend;
    std::string file = full_["default_model_filename"];
    if (file.empty()) file = "model.py";
    if (!file.ends_with(".py")) {
      error("default_model_filename",
            "Model name must end with '.py'. Model name is \"" + file + "\".");
    } else if (file.find('/') != std::string::npos || file == ".py") {
      error("default_model_filename",
            "'" + file + "' must be the name of a file in the version folder");
    }
    full_["default_model_filename"] = config.default_model_filename = file;
  }

  void batching() {
    ModelConfig& config = result_.config;
    config.max_batch_size = full_["max_batch_size"];
    if (config.max_batch_size < 0) {
      error("max_batch_size", "max_batch_size is " + std::to_string(config.max_batch_size) +
                                  ": it must be 0 (no batch dimension) or more");
    }
    if (!full_.contains("dynamic_batching")) return;
    const Json& given = full_["dynamic_batching"];
    DynamicBatching batching;
    for (std::int64_t size : given["preferred_batch_size"]) {
      if (size < 1 || size > std::max<std::int64_t>(config.max_batch_size, 1)) {
        error("dynamic_batching.preferred_batch_size",
              "a preferred batch size of " + std::to_string(size) +
                  " must be 1 to max_batch_size (" + std::to_string(config.max_batch_size) + ")");
      }
      batching.preferred_batch_size.push_back(size);
    }
    std::ranges::sort(batching.preferred_batch_size);
    constexpr std::uint64_t kMostMicroseconds = std::numeric_limits<std::int64_t>::max() / 1000;
    batching.max_queue_delay_us = static_cast<std::int64_t>(
        std::min(given["max_queue_delay_microseconds"].get<std::uint64_t>(), kMostMicroseconds));
    if (given.contains("default_queue_policy")) {
      batching.max_queue_size = given["default_queue_policy"]["max_queue_size"].get<std::size_t>();
    }
    if (config.max_batch_size == 0) {
      warning("dynamic_batching", "'dynamic_batching' has no effect: max_batch_size is 0");
    }
    config.dynamic_batching = std::move(batching);
  }

  void tensors(const std::string& kind, std::vector<TensorSpec>& into) {
    std::set<std::string> names;
    for (std::size_t i = 0; i < full_[kind].size(); ++i) {
      const Json& given = full_[kind][i];
      const std::string path = kind + "[" + std::to_string(i) + "]";
      TensorSpec spec;
      spec.name = given["name"];
      std::string shown =
          kind + (spec.name.empty() ? " number " + std::to_string(i) : " '" + spec.name + "'");
      if (spec.name.empty()) error(path, shown + " has no name");
      if (!spec.name.empty() && !names.insert(spec.name).second)
        error(path, shown + " is there twice");
      std::string type = given["data_type"];
      if (auto dtype = dtype_from_triton(type)) {
        spec.dtype = *dtype;
      } else {
        error(path, shown + " needs a data_type, such as TYPE_FP32");
      }
      dims(given, path, shown, spec);
      if (kind == "input") spec.optional = given["optional"];
      into.push_back(std::move(spec));
    }
  }

  void dims(const Json& given, const std::string& path, const std::string& shown,
            TensorSpec& spec) {
    spec.dims = given["dims"].get<std::vector<std::int64_t>>();
    if (spec.dims.empty()) error(path, shown + " needs dims, such as dims: [ 1 ]");
    for (std::size_t i = 0; i < spec.dims.size(); ++i) {
      if (spec.dims[i] >= 1 || spec.dims[i] == -1) continue;
      error(path + ".dims[" + std::to_string(i) + "]",
            "dimension " + std::to_string(spec.dims[i]) + " of " + shown +
                " must be 1 or more, or -1 for any size");
    }
    std::string format = given.value("format", "FORMAT_NONE");
    if (format != "FORMAT_NONE" && spec.dims.size() != 3) {
      error(path + ".format", shown + " has " + format + ", which needs 3 dims");
    }
  }

  // Filled in as Triton's core does, so that the model reads what it would read there.
  void instance_groups() {
    Json& groups = full_["instance_group"];
    if (groups.empty())
      groups.push_back(
          with_defaults(Json::object(), *model_config_schema().find("instance_group")->message));
    std::int64_t total = 0;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      Json& given = groups[i];
      const std::string path = "instance_group[" + std::to_string(i) + "]";
      InstanceGroup group;
      group.name = given["name"];
      if (group.name.empty()) group.name = result_.config.name + "_" + std::to_string(i);
      group.count = given["count"];
      if (group.count < 0) error(path + ".count", "an instance group's count can't be negative");
      if (group.count <= 0) group.count = 1;
      group.gpus = given["gpus"].get<std::vector<std::int64_t>>();
      if (std::ranges::any_of(group.gpus, [](auto gpu) { return gpu < 0; })) {
        error(path + ".gpus", "a GPU's number can't be negative");
      }
      std::string kind = given["kind"];
      if (kind == "KIND_AUTO") kind = group.gpus.empty() ? "KIND_CPU" : "KIND_GPU";
      if (kind != "KIND_GPU" && !group.gpus.empty()) {
        error(path + ".gpus",
              "instance group '" + group.name + "' names gpus, but has kind " + kind);
      }
      group.kind = kind.substr(std::string_view("KIND_").size());
      total +=
          group.count * std::max<std::int64_t>(1, static_cast<std::int64_t>(group.gpus.size()));
      if (total > kMaxInstances) {
        error(path + ".count", "the model asks for " + std::to_string(total) +
                                   " instances, each a process; at most " +
                                   std::to_string(kMaxInstances) + " are allowed");
        return;
      }
      given["name"] = group.name;
      given["kind"] = kind;
      given["count"] = group.count;
      result_.config.instance_groups.push_back(std::move(group));
    }
  }

  void parameters() {
    for (const auto& [key, value] : full_["parameters"].items()) {
      std::string text = value["string_value"];
      const std::string path = "parameters[\"" + key + "\"]";
      if (key == "FORCE_CPU_ONLY_INPUT_TENSORS" && text != "yes" && text != "no") {
        error(path, "Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: " + text +
                        "': it must be \"yes\" or \"no\"");
      }
      if (key.ends_with("_TIMEOUT_S") || key.ends_with("_EXECUTE_S")) seconds(path, key, text);
      if (key == "TENSORFERRY_GPU_POOL_BYTE_SIZE") byte_size(path, key, text);
      if (key == "TENSORFERRY_GPU_TRANSPORT") gpu_transport(path, text);
      if (key.starts_with(kOurs) &&
          std::ranges::find(kOurParameters, key) == std::end(kOurParameters)) {
        warning(path, "parameter " + key + " is unknown and has no effect");
      }
      result_.config.parameters[key] = std::move(text);
    }
  }

  void seconds(const std::string& path, const std::string& key, const std::string& text) {
    if (!key.starts_with(kOurs)) return;
    constexpr double kMostSeconds = 1e9;
    double value = -1;
    auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size() ||
        !(value >= 0 && value <= kMostSeconds)) {
      error(path, "parameter " + key + " is '" + text +
                      "': it must be a number of seconds, 0 for no limit");
    }
  }

  void byte_size(const std::string& path, const std::string& key, const std::string& text) {
    std::size_t value = 0;
    auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size() || value == 0)
      error(path, "parameter " + key + " is '" + text + "': it must be a number of bytes");
  }

  void gpu_transport(const std::string& path, const std::string& text) {
    if (auto asked = cuda::gpu_transport_from_string(text); !asked)
      error(path, "parameter " + asked.error().message);
  }

  void version_policy() {
    if (!full_.contains("version_policy")) return;
    const Json& policy = full_["version_policy"];
    if (policy.contains("specific")) {
      const Json& versions = policy["specific"]["versions"];
      if (versions.empty()) error("version_policy.specific", "version_policy names no version");
      for (std::size_t i = 0; i < versions.size(); ++i) {
        if (versions[i] < 1)
          error("version_policy.specific.versions[" + std::to_string(i) + "]",
                "a version is 1 or more");
      }
      if (versions.size() > 1)
        warning("version_policy.specific", "only the highest of the versions is served");
      result_.config.version_policy.specific = versions.get<std::vector<std::int64_t>>();
    }
    if (policy.contains("latest") && policy["latest"]["num_versions"] > 1) {
      warning("version_policy.latest.num_versions", "only the latest version is served");
    }
  }

  const Document& document_;
  const std::string_view source_;
  const std::string_view model_name_;
  Json full_;
  Interpreted result_;
};

}  // namespace

Interpreted interpret(const Document& document, std::string_view source,
                      std::string_view model_name) {
  return Interpreter(document, source, model_name).run();
}

Diagnostic syntax_diagnostic(const Error& error, std::string_view filename) {
  Diagnostic result{Severity::Error, std::string(filename), 0, 0, error.message};
  std::string_view rest = error.message;
  if (!rest.starts_with(filename)) return result;
  rest.remove_prefix(filename.size());
  constexpr std::string_view kBefore = ": error: ";
  const char* last = rest.data() + rest.size();
  auto line = std::from_chars(rest.data() + (rest.starts_with(':') ? 1 : 0), last, result.line);
  if (line.ec != std::errc() || line.ptr == last || *line.ptr != ':') return result;
  auto column = std::from_chars(line.ptr + 1, last, result.column);
  std::string_view message(column.ptr, last);
  if (message.starts_with(kBefore)) result.message = message.substr(kBefore.size());
  return result;
}

}  // namespace tensorferry::server
