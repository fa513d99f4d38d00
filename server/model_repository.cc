#include "model_repository.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "text_lexer.h"

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
using Severity = Diagnostic::Severity;

constexpr std::uintmax_t kMaxConfigBytes = 16 << 20;

std::unexpected<Error> model_failure(ErrorCode code, const std::string& model,
                                     std::string message) {
  return std::unexpected(Error{code, std::move(message), {model, {}, {}}});
}

// 0: not the name of a version. Like Triton, "01" is none.
std::int64_t version_number(const std::string& name) {
  std::int64_t version = 0;
  const char* last = name.data() + name.size();
  auto [end, code] = std::from_chars(name.data(), last, version);
  return code == std::errc() && end == last && !name.starts_with('0') && version > 0 ? version : 0;
}

// Highest first.
std::vector<std::int64_t> versions_of(const fs::path& directory) {
  std::vector<std::int64_t> versions;
  std::error_code code;
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    std::error_code ignored;
    auto version = version_number(it->path().filename().string());
    if (version > 0 && it->is_directory(ignored)) versions.push_back(version);
  }
  std::ranges::sort(versions, std::greater());
  return versions;
}

bool looks_like_model(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / "config.pbtxt", ignored) || !versions_of(directory).empty();
}

Result<std::vector<fs::path>> folders(const fs::path& repository) {
  std::error_code code;
  if (!fs::is_directory(repository, code)) {
    return failure(ErrorCode::NotFound, "the model repository '" + repository.string() +
                                            "' is not a folder" +
                                            (code ? ": " + code.message() : ""));
  }
  std::vector<fs::path> result;
  fs::directory_iterator it(repository, code);
  for (; !code && it != fs::directory_iterator(); it.increment(code)) {
    std::error_code ignored;
    std::string name = it->path().filename().string();
    if (!name.starts_with('.') && name != "__pycache__" && it->is_directory(ignored))
      result.push_back(it->path());
  }
  if (code)
    return system_failure("read the model repository '" + repository.string() + "'", code.value());
  std::ranges::sort(result);
  return result;
}

Result<std::string> read_config(const fs::path& path, const std::string& model) {
  std::error_code code;
  auto bytes = fs::file_size(path, code);
  if (code)
    return model_failure(ErrorCode::System, model,
                         "'" + path.string() + "' can't be read: " + code.message());
  if (bytes > kMaxConfigBytes) {
    return model_failure(ErrorCode::InvalidArgument, model,
                         "'" + path.string() + "' has " + std::to_string(bytes) +
                             " bytes: more than a config can have");
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    return model_failure(ErrorCode::System, model,
                         "'" + path.string() + "' can't be read: " + std::strerror(errno));
  }
  return text;
}

// Where the version policy leaves no choice the error says what there is.
Result<std::int64_t> pick_version(const fs::path& directory, const ModelConfig& config) {
  auto versions = versions_of(directory);
  if (versions.empty()) {
    return model_failure(ErrorCode::NotFound, config.name,
                         "model '" + config.name + "' has no version: put its " +
                             config.default_model_filename + " at '" +
                             (directory / "1" / config.default_model_filename).string() + "'");
  }
  const auto& specific = config.version_policy.specific;
  if (specific.empty()) return versions.front();
  for (std::int64_t version : versions) {
    if (std::ranges::find(specific, version) != specific.end()) return version;
  }
  std::string there;
  for (std::int64_t version : versions)
    there += (there.empty() ? "" : ", ") + std::to_string(version);
  return model_failure(ErrorCode::NotFound, config.name,
                       "no version that the version_policy of model '" + config.name +
                           "' names is in '" + directory.string() + "', which has " + there);
}

Result<void> find_files(FoundModel& found) {
  auto version = pick_version(found.directory, found.config);
  if (!version) return std::unexpected(version.error());
  found.version = *version;
  found.model_file =
      found.directory / std::to_string(*version) / found.config.default_model_filename;
  std::error_code ignored;
  if (fs::is_regular_file(found.model_file, ignored)) return {};
  return model_failure(ErrorCode::NotFound, found.config.name,
                       "Python model file not found in '" + found.model_file.string() + "'");
}

Result<void> check_name(const fs::path& repository, const std::string& name) {
  if (name.empty() || name.starts_with('.') || name.find('/') != std::string::npos ||
      !is_utf8(name)) {
    return model_failure(
        ErrorCode::InvalidArgument, name,
        "'" + name + "' can't be the name of a model: it must be the name of a folder, in UTF-8");
  }
  std::error_code ignored;
  if (fs::is_directory(repository / name, ignored)) return {};
  return model_failure(
      ErrorCode::NotFound, name,
      "model '" + name + "' not found: there is no folder '" + (repository / name).string() + "'");
}

ModelCheck check_model(const fs::path& repository, const fs::path& directory) {
  ModelCheck check;
  check.name = directory.filename().string();
  auto error = [&](const fs::path& path, const std::string& message) {
    check.diagnostics.push_back({Severity::Error, path.string(), 0, 0, message});
  };
  if (auto named = check_name(repository, check.name); !named) {
    error(directory, named.error().message);
    return check;
  }
  FoundModel found{ModelConfig::empty(check.name), directory, {}, 0, {}};
  std::error_code ignored;
  fs::path path = directory / "config.pbtxt";
  if (fs::exists(path, ignored)) {
    auto text = read_config(path, check.name);
    if (!text) {
      error(path, text.error().message);
      return check;
    }
    check.diagnostics = check_config(*text, path.string(), check.name);
    if (auto config = ModelConfig::from_text(*text, path.string(), check.name))
      found.config = std::move(*config);
  }
  if (!check.ok()) return check;  // which version and file to look for isn't known
  auto files = find_files(found);
  check.version = found.version;
  if (files) {
    check.model_file = found.model_file;
  } else {
    error(directory, files.error().message);
  }
  return check;
}

}  // namespace

bool ModelCheck::ok() const noexcept {
  return std::ranges::none_of(diagnostics,
                              [](const auto& one) { return one.severity == Severity::Error; });
}

Result<std::vector<std::string>> list_models(const fs::path& repository) {
  auto found = folders(repository);
  if (!found) return std::unexpected(found.error());
  std::vector<std::string> names;
  for (const fs::path& folder : *found) {
    if (looks_like_model(folder)) names.push_back(folder.filename().string());
  }
  return names;
}

Result<FoundModel> find_model(const fs::path& repository, const std::string& name) {
  if (auto named = check_name(repository, name); !named) return std::unexpected(named.error());
  FoundModel found{ModelConfig::empty(name), repository / name, {}, 0, {}};
  fs::path path = found.directory / "config.pbtxt";
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    auto text = read_config(path, name);
    if (!text) return std::unexpected(text.error());
    auto config = ModelConfig::from_text(*text, path.string(), name);
    if (!config) return std::unexpected(config.error());
    found.config = std::move(*config);
    for (const Diagnostic& warning : found.config.warnings)
      found.warnings.push_back(warning.describe());
  }
  if (auto files = find_files(found); !files) return std::unexpected(files.error());
  return found;
}

Result<std::vector<ModelCheck>> check_repository(const fs::path& repository) {
  auto found = folders(repository);
  if (!found) return std::unexpected(found.error());
  std::vector<ModelCheck> checks;
  for (const fs::path& folder : *found) {
    if (looks_like_model(folder)) {
      checks.push_back(check_model(repository, folder));
    } else {
      checks.push_back({folder.filename().string(), 0, {}, {}});
      checks.back().diagnostics.push_back(
          {Severity::Warning, folder.string(), 0, 0,
           "passed over: it has neither a config.pbtxt nor a version folder"});
    }
  }
  return checks;
}

}  // namespace tensorferry::server
