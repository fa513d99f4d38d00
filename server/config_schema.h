// The schema of Triton's ModelConfig (config.pbtxt), with the decision about every field.
#pragma once

#include <string>

#include "schema.h"

namespace tensorferry::server {

const schema::Message& model_config_schema() noexcept;

// The table of all decisions as Markdown: what docs/model_config.md holds.
std::string config_fields_markdown();

}  // namespace tensorferry::server
