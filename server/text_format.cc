#include "text_format.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "scalars.h"

namespace tensorferry::server {
namespace {

// As two's complement, in which a number's sign changes; 0 - value is that with a wrap-around.
constexpr std::uint64_t negated(std::uint64_t value) { return value == 0 ? 0 : ~value + 1; }

using schema::Field;
using schema::Label;
using schema::Message;
using schema::Type;
using Kind = Token::Kind;

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return result;
}

// 10, 012 and 0xa; nothing where it doesn't fit 64 bits.
std::optional<std::uint64_t> unsigned_value(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.starts_with('0')) {
    base = 8;
  }
  std::uint64_t value = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string names(const auto& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + std::string(item.name);
  return text;
}

// Recursive descent; `token_` is the next token, not yet used.
class Parser {
 public:
  Parser(std::string_view text, std::string_view filename) : lexer_(text, filename) {}

  Result<Document> parse(const Message& schema) {
    if (auto first = advance(); !first) return std::unexpected(first.error());
    if (auto body = fields(schema, document_.value, "", 0); !body)
      return std::unexpected(body.error());
    if (token_.kind != Kind::End)
      return wrong("expected a field's name, found " + token_.describe());
    return std::move(document_);
  }

 private:
  std::unexpected<Error> wrong(const std::string& message) const {
    return lexer_.error(token_.at, message);
  }

  Result<void> advance() {
    auto token = lexer_.next();
    if (!token) return std::unexpected(token.error());
    token_ = std::move(*token);
    return {};
  }

  Result<bool> take(char symbol) {
    if (!token_.is(symbol)) return false;
    if (auto next = advance(); !next) return std::unexpected(next.error());
    return true;
  }

  // Until a closing bracket or the end of the file.
  Result<void> fields(const Message& message, Json& into, const std::string& path, int depth) {
    if (depth > schema::kMaxDepth) return wrong("messages are nested too deep");
    while (token_.kind != Kind::End && !token_.is('}') && !token_.is('>')) {
      if (auto done = field(message, into, path, depth); !done) return done;
      for (char separator : {',', ';'}) {
        auto taken = take(separator);
        if (!taken) return std::unexpected(taken.error());
        if (*taken) break;
      }
    }
    return {};
  }

  Result<void> field(const Message& message, Json& into, const std::string& path, int depth) {
    if (token_.is('['))
      return wrong("extensions and Any are not part of " + std::string(message.name));
    if (token_.kind != Kind::Identifier)
      return wrong("expected a field's name, found " + token_.describe());
    const Field* found = message.find(token_.text);
    if (!found) {
      return wrong("message " + std::string(message.name) + " has no field '" +
                   std::string(token_.text) + "' (it has " + names(message.fields) + ")");
    }
    Position at = token_.at;
    if (auto allowed = may_be_set(message, *found, into); !allowed) return allowed;
    if (auto next = advance(); !next) return next;
    auto colon = take(':');
    if (!colon) return std::unexpected(colon.error());
    if (!*colon && found->type != Type::Message) {
      return wrong("expected ':' after '" + std::string(found->name) + "', found " +
                   token_.describe());
    }
    parents_.push_back(found);
    auto done = values(
        *found, into,
        path.empty() ? std::string(found->name) : path + "." + std::string(found->name), at, depth);
    parents_.pop_back();
    return done;
  }

  Result<void> may_be_set(const Message& message, const Field& field, const Json& into) const {
    if (field.label == Label::Single && into.contains(field.name)) {
      return wrong("field '" + std::string(field.name) +
                   "' is given twice, but it can have one value only");
    }
    if (field.oneof.empty()) return {};
    for (const Field& other : message.fields) {
      if (&other != &field && other.oneof == field.oneof && into.contains(other.name)) {
        return wrong("'" + std::string(field.name) + "' and '" + std::string(other.name) +
                     "' are both given, but only one of them can hold");
      }
    }
    return {};
  }

  Result<void> values(const Field& field, Json& into, const std::string& path, Position at,
                      int depth) {
    if (!token_.is('[')) return value(field, into, path, at, depth);
    if (field.label == Label::Single)
      return wrong("'" + std::string(field.name) + "' takes one value, not a list");
    if (auto next = advance(); !next) return next;
    auto closed = take(']');
    if (!closed) return std::unexpected(closed.error());
    while (!*closed) {
      if (auto element = value(field, into, path, token_.at, depth); !element) return element;
      auto comma = take(',');
      if (!comma) return std::unexpected(comma.error());
      if (*comma) continue;
      if (!token_.is(']'))
        return wrong("expected ',' or ']' in the list, found " + token_.describe());
      closed = take(']');
      if (!closed) return std::unexpected(closed.error());
    }
    return {};
  }

  Result<void> value(const Field& field, Json& into, const std::string& path, Position at,
                     int depth) {
    const std::string key(field.name);
    std::string own = path;
    if (field.label == Label::Repeated)
      own += "[" + std::to_string(into.contains(key) ? into[key].size() : 0) + "]";
    std::size_t use = document_.uses.size();
    document_.uses.push_back(
        {&field, own, at, false, {parents_.begin(), std::prev(parents_.end())}});
    document_.positions.try_emplace(path, at);
    document_.positions.try_emplace(own, at);
    if (field.label == Label::Map) return map_entry(field, into[key], path, at, depth);
    auto read = field.type == Type::Message ? message(field, own, depth) : scalar(field);
    if (!read) return std::unexpected(read.error());
    if (field.label == Label::Repeated) {
      into[key].push_back(std::move(*read));
    } else {
      document_.uses[use].is_default = field.type != Type::Message && *read == default_value(field);
      into[key] = std::move(*read);
    }
    return {};
  }

  // The last of equal keys counts.
  Result<void> map_entry(const Field& field, Json& map, const std::string& path, Position at,
                         int depth) {
    if (map.is_null()) map = Json::object();
    auto entry = message(field, path, depth);
    if (!entry) return std::unexpected(entry.error());
    const Json key =
        entry->contains("key") ? (*entry)["key"] : default_value(*field.message->find("key"));
    const std::string name = key.is_string() ? key.get<std::string>() : key.dump();
    document_.positions.insert_or_assign(path + "[\"" + name + "\"]", at);
    map[name] =
        entry->contains("value") ? (*entry)["value"] : default_value(*field.message->find("value"));
    return {};
  }

  Result<Json> message(const Field& field, const std::string& path, int depth) {
    char close = token_.is('{') ? '}' : '>';
    if (!token_.is('{') && !token_.is('<')) {
      return wrong("expected '{' after '" + std::string(field.name) + "', found " +
                   token_.describe());
    }
    if (auto next = advance(); !next) return std::unexpected(next.error());
    Json body = Json::object();
    if (auto inner = fields(*field.message, body, path, depth + 1); !inner)
      return std::unexpected(inner.error());
    auto closed = take(close);
    if (!closed) return std::unexpected(closed.error());
    if (!*closed) {
      return wrong(std::string("expected '") + close + "' to close '" + std::string(field.name) +
                   "', found " + token_.describe());
    }
    return body;
  }

  Result<Json> scalar(const Field& field) {
    if (field.type == Type::String) return string(field);
    Position at = token_.at;
    auto minus = take('-');
    if (!minus) return std::unexpected(minus.error());
    auto read = field.type == Type::Bool   ? boolean(field, *minus)
                : field.type == Type::Enum ? enumerator(field, *minus)
                : is_floating(field.type)  ? floating(field, *minus)
                                           : integer(field, *minus, at);
    if (!read) return read;
    if (auto next = advance(); !next) return std::unexpected(next.error());
    return read;
  }

  std::unexpected<Error> expected(const Field& field) const {
    return wrong("'" + std::string(field.name) + "' must be " + std::string(type_name(field.type)) +
                 ", found " + token_.describe());
  }

  // Neighbouring strings are one.
  Result<Json> string(const Field& field) {
    if (token_.kind != Kind::String) return expected(field);
    Position at = token_.at;
    std::string whole;
    while (token_.kind == Kind::String) {
      whole += token_.value;
      if (auto next = advance(); !next) return std::unexpected(next.error());
    }
    if (!is_utf8(whole))
      return lexer_.error(at, "'" + std::string(field.name) + "' is not valid UTF-8");
    return Json(std::move(whole));
  }

  Result<Json> boolean(const Field& field, bool minus) {
    if (minus) return expected(field);
    if (token_.kind == Kind::Integer) {
      auto value = unsigned_value(token_.text);
      if (value && *value <= 1) return Json(*value == 1);
    }
    for (auto name : {"true", "True", "t"}) {
      if (token_.text == name) return Json(true);
    }
    for (auto name : {"false", "False", "f"}) {
      if (token_.text == name) return Json(false);
    }
    return expected(field);
  }

  Result<Json> enumerator(const Field& field, bool minus) {
    const schema::EnumValue* value = nullptr;
    if (token_.kind == Kind::Identifier && !minus) value = field.enumeration->find(token_.text);
    if (token_.kind == Kind::Integer && !minus) {
      auto number = unsigned_value(token_.text);
      if (number && *number <= INT32_MAX)
        value = field.enumeration->find(static_cast<std::int64_t>(*number));
    }
    if (value) return Json(std::string(value->name));
    return wrong("'" + std::string(field.name) + "' must be one of " +
                 names(field.enumeration->values) + ", found " + (minus ? "-" : "") +
                 token_.describe());
  }

  Result<Json> integer(const Field& field, bool minus, Position at) {
    if (token_.kind != Kind::Integer) return expected(field);
    auto value = unsigned_value(token_.text);
    auto range = integer_range(field.type);
    // Of a negative number: its distance from zero.
    std::uint64_t most = minus ? negated(static_cast<std::uint64_t>(range.min)) : range.max;
    if (!value || *value > most) {
      return lexer_.error(at, "'" + std::string(field.name) + "' must be " +
                                  std::string(type_name(field.type)) + " (" +
                                  std::to_string(range.min) + " to " + std::to_string(range.max) +
                                  "), found " + (minus ? "-" : "") + std::string(token_.text));
    }
    if (!minus) return Json(*value);
    return Json(static_cast<std::int64_t>(negated(*value)));
  }

  Result<Json> floating(const Field& field, bool minus) {
    double value = 0;
    if (token_.kind == Kind::Identifier) {
      std::string name = lower(token_.text);
      if (name == "nan") {
        value = std::numeric_limits<double>::quiet_NaN();
      } else if (name == "inf" || name == "infinity") {
        value = std::numeric_limits<double>::infinity();
      } else {
        return expected(field);
      }
    } else if (token_.kind == Kind::Float || token_.kind == Kind::Integer) {
      auto decimal = decimal_value(token_.text);
      if (!decimal) return expected(field);
      value = *decimal;
    } else {
      return expected(field);
    }
    return floating_json(minus ? -value : value, field.type);
  }

  // Hexadecimal and octal are for integers only. What is too large is infinite, as in protobuf.
  static std::optional<double> decimal_value(std::string_view text) {
    bool prefixed = text.size() > 1 && text[0] == '0' &&
                    text.find_first_not_of("01234567") == std::string_view::npos;
    if (prefixed || text.starts_with("0x") || text.starts_with("0X")) return std::nullopt;
    double value = 0;
    auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code == std::errc::result_out_of_range) {
      value = std::strtod(std::string(text).c_str(), nullptr);
    } else if (code != std::errc() || end != text.data() + text.size()) {
      return std::nullopt;
    }
    return value;
  }

  TextLexer lexer_;
  Token token_;
  Document document_;
  std::vector<const Field*> parents_;  // the fields that we are in, the present one last
};

}  // namespace

Position Document::position(const std::string& path) const {
  auto it = positions.find(path);
  return it == positions.end() ? Position{} : it->second;
}

Result<Document> read_text(std::string_view text, std::string_view filename,
                           const schema::Message& schema) {
  return Parser(text, filename).parse(schema);
}

}  // namespace tensorferry::server
