#include "json_format.h"

#include <charconv>
#include <cmath>

#include "scalars.h"

namespace tensorferry::server {
namespace {

using schema::Field;
using schema::Label;
using schema::Message;
using schema::Type;

// "max_batch_size" -> "maxBatchSize"
std::string camel_case(std::string_view name) {
  std::string result;
  bool upper = false;
  for (char c : name) {
    if (c == '_') {
      upper = true;
    } else {
      result.push_back(upper && c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c);
      upper = false;
    }
  }
  return result;
}

const Field* find_field(const Message& message, const std::string& name) {
  if (const Field* field = message.find(name)) return field;
  for (const Field& field : message.fields) {
    if (camel_case(field.name) == name) return &field;
  }
  return nullptr;
}

class Reader {
 public:
  explicit Reader(std::string_view prefix) : prefix_(prefix) {}

  Result<Json> message(const Json& given, const Message& schema, const std::string& path,
                       int depth) {
    if (depth > schema::kMaxDepth) return wrong(path, "is nested too deep");
    if (!given.is_object()) return wrong(path, "must be an object");
    Json result = Json::object();
    for (const auto& [key, value] : given.items()) {
      std::string own = path.empty() ? key : path + "." + key;
      const Field* field = find_field(schema, key);
      if (!field)
        return wrong(own, "is unknown: " + std::string(schema.name) + " has no such field");
      if (value.is_null()) continue;
      if (result.contains(field->name)) return wrong(own, "is given twice");
      for (const Field& other : schema.fields) {
        if (!field->oneof.empty() && other.oneof == field->oneof && result.contains(other.name)) {
          return wrong(own, "can't be given together with '" + std::string(other.name) + "'");
        }
      }
      parents_.push_back(field);
      auto read = this->field(value, *field, own, depth);
      parents_.pop_back();
      if (!read) return read;
      result[std::string(field->name)] = std::move(*read);
    }
    return result;
  }

  std::vector<FieldUse> uses;

 private:
  std::unexpected<Error> wrong(const std::string& path, const std::string& what) const {
    return failure(ErrorCode::InvalidArgument,
                   prefix_ + ": " + (path.empty() ? "it" : "field '" + path + "'") + " " + what);
  }

  Result<Json> field(const Json& given, const Field& field, const std::string& path, int depth) {
    if (field.label == Label::Single) return value(given, field, path, depth, true);
    if (field.label == Label::Repeated ? !given.is_array() : !given.is_object()) {
      return wrong(path, field.label == Label::Map ? "must be an object" : "must be a list");
    }
    Json result = field.label == Label::Map ? Json::object() : Json::array();
    if (field.label == Label::Map) {
      const Field& entry = *field.message->find("value");
      for (const auto& [key, item] : given.items()) {
        use(field, path + "[\"" + key + "\"]", false);
        auto read = value(item, entry, path + "[\"" + key + "\"]", depth, false);
        if (!read) return read;
        result[key] = std::move(*read);
      }
      return result;
    }
    for (std::size_t i = 0; i < given.size(); ++i) {
      auto read = value(given[i], field, path + "[" + std::to_string(i) + "]", depth, true);
      if (!read) return read;
      result.push_back(std::move(*read));
    }
    return result;
  }

  void use(const Field& field, const std::string& path, bool is_default) {
    uses.push_back({&field, path, {}, is_default, {parents_.begin(), std::prev(parents_.end())}});
  }

  Result<Json> value(const Json& given, const Field& field, const std::string& path, int depth,
                     bool used) {
    if (field.type == Type::Message) {
      if (used) use(field, path, false);
      return message(given, *field.message, path, depth + 1);
    }
    auto read = scalar(given, field, path);
    if (read && used)
      use(field, path, field.label == Label::Single && *read == default_value(field));
    return read;
  }

  Result<Json> scalar(const Json& given, const Field& field, const std::string& path) const {
    if (field.type == Type::String && given.is_string()) return given;
    if (field.type == Type::Bool && given.is_boolean()) return given;
    if (field.type == Type::Enum) {
      const schema::EnumValue* found = nullptr;
      if (given.is_string())
        found = field.enumeration->find(std::string_view(given.get_ref<const std::string&>()));
      if (auto number = whole(given)) found = field.enumeration->find(*number);
      if (found) return Json(std::string(found->name));
      return wrong(path,
                   "is " + shown(given) + ", which is no " + std::string(field.enumeration->name));
    }
    if (is_floating(field.type)) {
      if (given.is_number()) return floating_json(given.get<double>(), field.type);
      if (given == "NaN" || given == "Infinity" || given == "-Infinity") return given;
    }
    if (is_integer(field.type)) {
      if (auto fits = integer(given, field)) return *fits;
    }
    return wrong(path, "must be " + std::string(type_name(field.type)) + ", not " + shown(given));
  }

  static std::string shown(const Json& given) {
    return given.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
  }

  // A number without fraction that fits the signed 64 bits.
  static std::optional<std::int64_t> whole(const Json& given) {
    if (given.is_number_unsigned() && given.get<std::uint64_t>() > INT64_MAX) return std::nullopt;
    if (given.is_number_integer()) return given.get<std::int64_t>();
    constexpr double kLimit = 9.2e18;
    if (!given.is_number_float() || std::abs(given.get<double>()) > kLimit) return std::nullopt;
    double value = given.get<double>();
    if (std::trunc(value) != value) return std::nullopt;
    return static_cast<std::int64_t>(value);
  }

  static std::optional<Json> integer(const Json& given, const Field& field) {
    auto range = integer_range(field.type);
    if (given.is_string()) {
      const auto& text = given.get_ref<const std::string&>();
      const char* last = text.data() + text.size();
      if (std::uint64_t value = 0;
          std::from_chars(text.data(), last, value) == std::from_chars_result{last, {}}) {
        return value <= range.max ? std::optional<Json>(value) : std::nullopt;
      }
      if (std::int64_t value = 0;
          std::from_chars(text.data(), last, value) == std::from_chars_result{last, {}}) {
        return value >= range.min ? std::optional<Json>(value) : std::nullopt;
      }
      return std::nullopt;
    }
    if (given.is_number_unsigned()) {
      return given.get<std::uint64_t>() <= range.max ? std::optional<Json>(given) : std::nullopt;
    }
    auto value = whole(given);
    if (!value || *value < range.min) return std::nullopt;
    if (*value >= 0 && static_cast<std::uint64_t>(*value) > range.max) return std::nullopt;
    return Json(*value);
  }

  const std::string prefix_;
  std::vector<const Field*> parents_;
};

}  // namespace

Result<Document> read_json(std::string_view json, std::string_view prefix,
                           const schema::Message& schema) {
  Json given;
  try {
    given = Json::parse(json);
  } catch (const Json::exception& error) {
    return failure(ErrorCode::InvalidArgument,
                   std::string(prefix) + ": it is not JSON: " + error.what());
  }
  Reader reader(prefix);
  auto value = reader.message(given, schema, "", 0);
  if (!value) return std::unexpected(value.error());
  return Document{std::move(*value), std::move(reader.uses), {}};
}

Json with_defaults(const Json& value, const schema::Message& schema) {
  Json result = Json::object();
  for (const Field& field : schema.fields) {
    const std::string name(field.name);
    auto it = value.find(name);
    if (it == value.end()) {
      if (field.label == Label::Map) {
        result[name] = Json::object();
      } else if (field.label == Label::Repeated) {
        result[name] = Json::array();
      } else if (field.type != Type::Message && field.oneof.empty()) {
        result[name] = default_value(field);
      }
    } else if (field.label == Label::Map) {
      const Field& entry = *field.message->find("value");
      Json map = Json::object();
      for (const auto& [key, item] : it->items()) {
        map[key] = entry.type == Type::Message ? with_defaults(item, *entry.message) : item;
      }
      result[name] = std::move(map);
    } else if (field.type != Type::Message) {
      result[name] = *it;
    } else if (field.label == Label::Single) {
      result[name] = with_defaults(*it, *field.message);
    } else {
      Json list = Json::array();
      for (const Json& item : *it) list.push_back(with_defaults(item, *field.message));
      result[name] = std::move(list);
    }
  }
  return result;
}

}  // namespace tensorferry::server
