// What a ModelConfig must satisfy beyond its schema, and what is filled in.
#pragma once

#include <tensorferry/server/model_config.h>

#include <string_view>
#include <vector>

#include "text_format.h"

namespace tensorferry::server {

struct Interpreted {
  ModelConfig config;  // of use only where no diagnostic is an error
  std::vector<Diagnostic> diagnostics;
};

// `source` is the file's name, or says what the JSON is.
Interpreted interpret(const Document& document, std::string_view source,
                      std::string_view model_name);

// The error of read_text ("FILE:LINE:COLUMN: error: ...") taken apart again.
Diagnostic syntax_diagnostic(const Error& error, std::string_view filename);

}  // namespace tensorferry::server
