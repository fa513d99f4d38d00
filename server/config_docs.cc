// docs/model_config.md's table, from the schema that decides.
#include "config_schema.h"

namespace tensorferry::server {
namespace {

using schema::Field;
using schema::Handling;
using schema::Message;

std::string_view word(Handling handling) {
  switch (handling) {
    case Handling::Honoured:
      return "honoured";
    case Handling::Ignored:
      return "ignored, one warning";
    case Handling::Refused:
      return "refused";
    case Handling::Inherit:
      break;
  }
  return "";
}

// A subtree that is ignored or refused as a whole is one row.
void rows(const Message& message, const std::string& prefix, std::string& out) {
  for (const Field& field : message.fields) {
    std::string path = prefix + std::string(field.name);
    if (field.label != schema::Label::Single) path += "[]";
    Handling handling = field.handling == Handling::Inherit ? Handling::Honoured : field.handling;
    out += "| `" + path + "` | " + std::string(word(handling)) + " | " + std::string(field.note) +
           " |\n";
    bool entry = field.label == schema::Label::Map;
    if (field.type == schema::Type::Message && handling == Handling::Honoured && !entry) {
      rows(*field.message, path + ".", out);
    }
  }
}

}  // namespace

std::string config_fields_markdown() {
  std::string out = "| Field | | |\n|---|---|---|\n";
  rows(model_config_schema(), "", out);
  return out;
}

}  // namespace tensorferry::server
