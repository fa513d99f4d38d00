// Reads and completes protobuf's JSON form of a message by its schema.
#pragma once

#include <string_view>

#include "text_format.h"

namespace tensorferry::server {

// Accepts what protobuf does: field names as in the file or in lowerCamelCase, 64-bit integers as
// numbers or strings, enums by name or number, null for a default. Error: InvalidArgument, "PREFIX:
// field 'input[0].dims': ...".
Result<Document> read_json(std::string_view json, std::string_view prefix,
                           const schema::Message& schema);

// The same value with every field that has a default printed, in the schema's order: all but
// messages and members of a oneof.
Json with_defaults(const Json& value, const schema::Message& schema);

}  // namespace tensorferry::server
