// From the text or JSON to a checked ModelConfig. The checks are in config_rules.cc.
#include <tensorferry/server/model_config.h>

#include "config_rules.h"
#include "config_schema.h"
#include "json_format.h"
#include "text_format.h"

namespace tensorferry::server {
namespace {

std::string lines(const std::vector<Diagnostic>& diagnostics) {
  std::string text;
  for (const Diagnostic& diagnostic : diagnostics) {
    if (diagnostic.severity != Diagnostic::Severity::Error) continue;
    text += (text.empty() ? "" : "\n") + diagnostic.describe();
  }
  return text;
}

Result<ModelConfig> checked(const Document& document, std::string_view source,
                            std::string_view model_name) {
  Interpreted read = interpret(document, source, model_name);
  if (std::string errors = lines(read.diagnostics); !errors.empty()) {
    return std::unexpected(
        Error{ErrorCode::InvalidArgument, std::move(errors), {std::string(model_name), {}, {}}});
  }
  read.config.warnings = std::move(read.diagnostics);
  return std::move(read.config);
}

}  // namespace

std::string Diagnostic::describe() const {
  std::string where = file;
  if (line > 0) where += ":" + std::to_string(line) + ":" + std::to_string(column);
  if (!where.empty()) where += ": ";
  return where + (severity == Severity::Error ? "error: " : "warning: ") + message;
}

Result<ModelConfig> ModelConfig::from_text(std::string_view text, std::string_view filename,
                                           std::string_view model_name) {
  auto document = read_text(text, filename, model_config_schema());
  if (!document) {
    document.error().context.model = model_name;
    return std::unexpected(document.error());
  }
  return checked(*document, filename, model_name);
}

Result<ModelConfig> ModelConfig::from_json(std::string_view json, std::string_view model_name) {
  std::string source = "the config of model '" + std::string(model_name) + "'";
  auto document = read_json(json, source, model_config_schema());
  if (!document) {
    document.error().context.model = model_name;
    return std::unexpected(document.error());
  }
  return checked(*document, source, model_name);
}

ModelConfig ModelConfig::empty(std::string_view model_name) {
  return interpret({}, "", model_name).config;
}

std::vector<Diagnostic> check_config(std::string_view text, std::string_view filename,
                                     std::string_view model_name) {
  auto document = read_text(text, filename, model_config_schema());
  if (document) return interpret(*document, filename, model_name).diagnostics;
  return {syntax_diagnostic(document.error(), filename)};
}

Result<std::string> config_to_json(std::string_view text, std::string_view filename) {
  auto document = read_text(text, filename, model_config_schema());
  if (!document) return std::unexpected(document.error());
  return with_defaults(document->value, model_config_schema()).dump();
}

}  // namespace tensorferry::server
