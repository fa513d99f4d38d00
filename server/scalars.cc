#include "scalars.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <string>

namespace tensorferry::server {

using schema::Type;

std::string_view type_name(Type type) noexcept {
  switch (type) {
    case Type::Bool:
      return "true or false";
    case Type::Int32:
      return "a 32-bit integer";
    case Type::Int64:
      return "a 64-bit integer";
    case Type::Uint32:
      return "an unsigned 32-bit integer";
    case Type::Uint64:
      return "an unsigned 64-bit integer";
    case Type::Float:
    case Type::Double:
      return "a number";
    case Type::String:
      return "a string";
    case Type::Enum:
      return "a name";
    case Type::Message:
      return "a message";
  }
  return "a value";
}

nlohmann::ordered_json floating_json(double value, Type type) {
  if (std::isnan(value)) return "NaN";
  if (type == Type::Float && std::abs(value) > std::numeric_limits<float>::max()) {
    value = std::copysign(HUGE_VAL, value);
  }
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  if (type == Type::Double) return value;
  char text[32];
  auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value)).ptr;
  double shortest = 0;
  std::from_chars(text, end, shortest);
  return shortest;
}

nlohmann::ordered_json default_value(const schema::Field& field) {
  switch (field.type) {
    case Type::Bool:
      return false;
    case Type::Float:
    case Type::Double:
      return 0.0;
    case Type::String:
      return "";
    case Type::Enum:
      return std::string(field.enumeration->values.front().name);
    case Type::Message:
      return nlohmann::ordered_json::object();
    default:
      return 0;
  }
}

}  // namespace tensorferry::server
