// A description of protobuf messages, enough to read their text and JSON forms: which fields there
// are, of which type, and what this server does with each. The one instance is Triton's ModelConfig
// (config_schema.h). Everything here is constant data: compare by address, share between threads.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace tensorferry::server::schema {

enum class Type : std::uint8_t {
  Bool,
  Int32,
  Int64,
  Uint32,
  Uint64,
  Float,
  Double,
  String,
  Enum,
  Message
};
// A map is written as repeated { key: .. value: .. } in text and as an object in JSON.
enum class Label : std::uint8_t { Single, Repeated, Map };

enum class Handling : std::uint8_t {
  Inherit,   // as the message that it is in
  Honoured,  // it has its effect
  Ignored,   // accepted; one warning says that it has no effect
  Refused,   // the model isn't loaded
};

struct EnumValue {
  std::string_view name;
  std::int32_t number;
};

struct Enum {
  std::string_view name;
  std::span<const EnumValue> values;  // never empty; the first is the default

  const EnumValue* find(std::string_view name) const noexcept;
  const EnumValue* find(std::int64_t number) const noexcept;
};

struct Message;

struct Field {
  std::string_view name;
  Type type = Type::String;
  Label label = Label::Single;
  const Message* message =
      nullptr;  // of Type::Message; of a map: its entry, with fields "key" and "value"
  const Enum* enumeration = nullptr;  // of Type::Enum
  std::string_view oneof = {};        // of the fields that share this name at most one may be set
  Handling handling = Handling::Inherit;
  std::string_view note = {};  // why it is ignored or refused, or how it is honoured
};

struct Message {
  std::string_view name;
  std::span<const Field> fields;

  const Field* find(std::string_view name) const noexcept;
};

// Messages may not be nested deeper, in text or JSON.
inline constexpr int kMaxDepth = 32;

}  // namespace tensorferry::server::schema
