// The scalar values of a schema: their ranges, their defaults and how JSON shows them.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string_view>

#include "schema.h"

namespace tensorferry::server {

// What an integer type may hold; min <= 0 <= max.
struct IntegerRange {
  std::int64_t min;
  std::uint64_t max;
};
constexpr IntegerRange integer_range(schema::Type type) noexcept {
  switch (type) {
    case schema::Type::Int32:
      return {INT32_MIN, INT32_MAX};
    case schema::Type::Uint32:
      return {0, UINT32_MAX};
    case schema::Type::Uint64:
      return {0, UINT64_MAX};
    default:
      return {INT64_MIN, INT64_MAX};
  }
}
constexpr bool is_integer(schema::Type type) noexcept {
  return type >= schema::Type::Int32 && type <= schema::Type::Uint64;
}

// "string", "32-bit integer", "true or false", ...
std::string_view type_name(schema::Type type) noexcept;

constexpr bool is_floating(schema::Type type) noexcept {
  return type == schema::Type::Float || type == schema::Type::Double;
}

// A number as protobuf's JSON shows it: of a float the shortest decimal that gives the same float;
// "NaN", "Infinity". What is beyond a float's range becomes infinite.
nlohmann::ordered_json floating_json(double value, schema::Type type);

// 0, false, "", the first enum value. Not for messages.
nlohmann::ordered_json default_value(const schema::Field& field);

}  // namespace tensorferry::server
