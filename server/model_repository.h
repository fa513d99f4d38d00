// Finds models in a repository as Triton lays it out:
//   <repository>/<model>/config.pbtxt        may be missing: auto_complete_config fills it in
//   <repository>/<model>/<version>/model.py  version: a number from 1; the version policy picks one
#pragma once

#include <tensorferry/server/model_config.h>
#include <tensorferry/server/repository_check.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tensorferry::server {

struct FoundModel {
  ModelConfig config;
  std::filesystem::path directory;   // <repository>/<model>
  std::filesystem::path model_file;  // <directory>/<version>/<default_model_filename>
  std::int64_t version = 0;
  std::vector<std::string> warnings;  // about the config, with file, line and column
};

// Names of the folders that look like models (they have a config.pbtxt or a version folder),
// sorted. Others are passed over. Error: NotFound, System.
Result<std::vector<std::string>> list_models(const std::filesystem::path& repository);

// Reads the config and picks the version. Errors name the path: NotFound, InvalidArgument (config;
// all its errors).
Result<FoundModel> find_model(const std::filesystem::path& repository, const std::string& name);

}  // namespace tensorferry::server
