// Looks at a model repository without loading or importing anything.
#pragma once

#include <tensorferry/server/model_config.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tensorferry::server {

struct ModelCheck {
  std::string name;
  std::int64_t version = 0;          // that would be served; 0: none was found
  std::filesystem::path model_file;  // empty: none was found
  std::vector<Diagnostic> diagnostics;

  bool ok() const noexcept;  // no diagnostic is an error
};

// All models of <repository>, by name: every error and warning of every config, and files that are
// missing. Reads files; starts and imports nothing. Error: the repository itself can't be read
// (NotFound).
Result<std::vector<ModelCheck>> check_repository(const std::filesystem::path& repository);

}  // namespace tensorferry::server
