// Which interpreter runs a model, and with what environment.
#pragma once

#include <tensorferry/server/model_config.h>

#include <filesystem>
#include <string>

#include "stub_process.h"

namespace tensorferry::server {

// From the model's parameters: TENSORFERRY_PYTHON (an interpreter, or the folder of a venv or conda
// environment), or Triton's EXECUTION_ENV_PATH (such a folder); else `default_python`, looked up in
// PATH when it has no slash, and python3 when it is empty. "$$TRITON_MODEL_DIRECTORY" at the
// beginning stands for the model's folder. Error NotFound or InvalidArgument names the parameter
// and the path.
Result<StubCommand> stub_command(const ModelConfig& config,
                                 const std::filesystem::path& model_directory,
                                 const std::string& default_python,
                                 const std::filesystem::path& payload);

}  // namespace tensorferry::server
