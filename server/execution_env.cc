#include "execution_env.h"

#include <unistd.h>

#include <cstdlib>

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kModelDirectory = "$$TRITON_MODEL_DIRECTORY";

bool is_executable(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) && ::access(path.c_str(), X_OK) == 0;
}

std::string expand(const std::string& value, const fs::path& model_directory) {
  if (!value.starts_with(kModelDirectory)) return value;
  return model_directory.string() + value.substr(kModelDirectory.size());
}

std::string find_in_path(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = std::getenv("PATH");
  std::string rest = path ? path : "/usr/bin:/bin";
  for (std::size_t begin = 0; begin <= rest.size();) {
    std::size_t end = std::min(rest.find(':', begin), rest.size());
    fs::path candidate = fs::path(rest.substr(begin, end - begin)) / name;
    if (is_executable(candidate)) return candidate.string();
    begin = end + 1;
  }
  return name;
}

// The interpreter of an environment's folder: a venv's, a conda environment's, or an installation
// prefix.
std::string interpreter_in(const fs::path& folder) {
  for (const char* name : {"bin/python", "bin/python3"}) {
    if (is_executable(folder / name)) return (folder / name).string();
  }
  return {};
}

std::unexpected<Error> not_found(const ModelConfig& config, const std::string& key,
                                 const std::string& path, const std::string& what) {
  return std::unexpected(
      Error{ErrorCode::NotFound,
            "parameter " + key + " of model '" + config.name + "' names '" + path + "': " + what,
            {config.name, {}, {}}});
}

const std::string* parameter(const ModelConfig& config, const std::string& key) {
  auto it = config.parameters.find(key);
  return it == config.parameters.end() ? nullptr : &it->second;
}

// As Triton's backend does it for an execution environment: what `activate` would set.
void activate(StubCommand& command, const fs::path& folder) {
  const char* path = std::getenv("PATH");
  std::error_code ignored;
  const bool conda = fs::exists(folder / "conda-meta", ignored);
  command.environment[conda ? "CONDA_PREFIX" : "VIRTUAL_ENV"] = folder.string();
  command.environment[conda ? "VIRTUAL_ENV" : "CONDA_PREFIX"] = std::nullopt;
  command.environment["PATH"] = (folder / "bin").string() + (path ? ":" + std::string(path) : "");
  command.environment["PYTHONHOME"] = std::nullopt;
}

}  // namespace

Result<StubCommand> stub_command(const ModelConfig& config, const fs::path& model_directory,
                                 const std::string& default_python, const fs::path& payload) {
  StubCommand command;
  command.launcher = payload / "launch.py";
  std::error_code ignored;
  if (!fs::exists(command.launcher, ignored)) {
    return failure(ErrorCode::NotFound,
                   "the stub's payload has no '" + command.launcher.string() +
                       "': set ServerOptions::payload or TENSORFERRY_PAYLOAD to the installed "
                       "package's payload folder");
  }
  for (const char* key : {"TENSORFERRY_PYTHON", "EXECUTION_ENV_PATH"}) {
    const std::string* value = parameter(config, key);
    if (!value) continue;
    command.chosen_by = "parameter " + std::string(key) + " of model '" + config.name + "'";
    fs::path path = expand(*value, model_directory);
    if (fs::is_directory(path, ignored)) {
      command.interpreter = interpreter_in(path);
      if (command.interpreter.empty()) {
        return not_found(config, key, path.string(),
                         "that folder has no bin/python that can be run; name the folder of a venv "
                         "or of a conda environment");
      }
      activate(command, fs::absolute(path, ignored));
      return command;
    }
    if (std::string_view(key) == "EXECUTION_ENV_PATH") {
      return not_found(config, key, path.string(),
                       fs::exists(path, ignored)
                           ? "it is no folder; unpack the archive and name the folder"
                           : "there is no such folder; create the environment, or name another");
    }
    command.interpreter = find_in_path(path.string());
    if (!is_executable(command.interpreter)) {
      return not_found(
          config, key, path.string(),
          "there is no such interpreter that can be run; create the environment, or name another");
    }
    return command;
  }
  command.chosen_by = "the server's default";
  command.interpreter = find_in_path(default_python.empty() ? "python3" : default_python);
  if (!is_executable(command.interpreter)) {
    return failure(ErrorCode::NotFound,
                   "the interpreter '" + command.interpreter +
                       "' does not exist or can't be run: install Python 3.8 or later, or set "
                       "ServerOptions::python, or the model's parameter TENSORFERRY_PYTHON");
  }
  return command;
}

}  // namespace tensorferry::server
