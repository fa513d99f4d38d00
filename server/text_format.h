// Reads protobuf's text format by a schema (schema.h): all of its grammar, except what the schema
// can't have (extensions, Any, groups). Stricter than protobuf in two points: a field set twice is
// an error also when it was set to its default, and so is an enum number without a name.
#pragma once

#include <nlohmann/json.hpp>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "schema.h"
#include "text_lexer.h"

namespace tensorferry::server {

using Json = nlohmann::ordered_json;

// A field that was given.
struct FieldUse {
  const schema::Field* field = nullptr;
  std::string path;                           // "input[0].dims"
  Position at;                                // {0, 0} where it came from JSON
  bool is_default = false;                    // it says what would hold without it
  std::vector<const schema::Field*> parents;  // outermost first
};

struct Document {
  Json value =
      Json::object();  // what was given, in the shape of protobuf's JSON with the schema's names
  std::vector<FieldUse> uses;
  std::map<std::string, Position> positions;  // by path; empty for JSON

  Position position(const std::string& path) const;
};

// Error: InvalidArgument, "file:line:column: error: ..."; the first one found.
Result<Document> read_text(std::string_view text, std::string_view filename,
                           const schema::Message& schema);

}  // namespace tensorferry::server
