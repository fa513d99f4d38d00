// What a model's config.pbtxt says, checked: the fields of Triton's ModelConfig that this server
// honours. docs/model_config.md says of each field whether it is honoured, ignored or refused.
#pragma once

#include <tensorferry/transport/dtype.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tensorferry::server {

// Something to say about a config: an error keeps the model from being loaded, a warning doesn't.
struct Diagnostic {
  enum class Severity : std::uint8_t { Warning, Error };
  Severity severity = Severity::Error;
  std::string file;  // path of the file or folder; empty for a config that is no file
                     // (auto_complete_config)
  int line = 0;      // from 1; 0: about the file as a whole
  int column = 0;    // from 1, in bytes
  std::string message;

  // "models/m/config.pbtxt:3:7: error: ..."
  std::string describe() const;
};

// A tensor that requests bring or ask for. dims are without the batch dimension; -1 is any size.
struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> dims;
  bool optional = false;  // inputs only
};

// `count` instances on each of `gpus`, or `count` in all where none is named.
struct InstanceGroup {
  std::string name;
  std::string kind = "CPU";  // "CPU", "GPU" or "MODEL": what the model is told
  std::int64_t count = 1;    // at least 1
  std::vector<std::int64_t> gpus;
};

struct DynamicBatching {
  std::vector<std::int64_t> preferred_batch_size;
  std::int64_t max_queue_delay_us = 0;
  std::size_t max_queue_size = 0;  // requests; 0: the server's default
};

struct VersionPolicy {
  std::vector<std::int64_t> specific;  // empty: the latest
};

struct ModelConfig {
  std::string name;
  std::string backend = "python";  // or "tensorferry": the same
  std::int64_t max_batch_size = 0;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<InstanceGroup> instance_groups;  // at least one
  std::optional<DynamicBatching> dynamic_batching;
  std::map<std::string, std::string> parameters;
  std::string default_model_filename = "model.py";
  VersionPolicy version_policy;
  // The whole config as model.py gets it: protobuf's JSON with the file's field names, defaults
  // printed, and 64-bit integers as numbers (as Triton's core rewrites them).
  std::string json;
  std::vector<Diagnostic> warnings;  // fields that are ignored, and the like

  // `filename` is for messages only. `model_name` is the name of the model's folder. Error:
  // InvalidArgument whose message lists every error found, one per line, each with file, line and
  // column.
  static Result<ModelConfig> from_text(std::string_view text, std::string_view filename,
                                       std::string_view model_name);
  // The same from JSON, as auto_complete_config returns it; errors name the field instead of the
  // line.
  static Result<ModelConfig> from_json(std::string_view json, std::string_view model_name);
  // What a model without config.pbtxt begins with.
  static ModelConfig empty(std::string_view model_name);
};

// All errors and warnings of a config.pbtxt.
std::vector<Diagnostic> check_config(std::string_view text, std::string_view filename,
                                     std::string_view model_name);

// The text format as JSON, with all of Triton's fields, whether they are honoured or not; no
// defaults of ours are filled in. Error: InvalidArgument with file, line and column.
Result<std::string> config_to_json(std::string_view text, std::string_view filename);

}  // namespace tensorferry::server
