#include "text_lexer.h"

namespace tensorferry::server {
namespace {

constexpr std::uint32_t kMaxCodePoint = 0x10ffff;

bool is_blank(char c) noexcept { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
bool is_octal(char c) noexcept { return c >= '0' && c <= '7'; }
bool is_letter(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

int hex_value(char c) noexcept {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_high_surrogate(std::uint32_t code) noexcept { return code >= 0xd800 && code <= 0xdbff; }
bool is_low_surrogate(std::uint32_t code) noexcept { return code >= 0xdc00 && code <= 0xdfff; }

void append_utf8(std::string& out, std::uint32_t code) {
  auto byte = [&](std::uint32_t value) { out.push_back(static_cast<char>(value)); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xc0 | code >> 6);
    byte(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    byte(0xe0 | code >> 12);
    byte(0x80 | (code >> 6 & 0x3f));
    byte(0x80 | (code & 0x3f));
  } else {
    byte(0xf0 | code >> 18);
    byte(0x80 | (code >> 12 & 0x3f));
    byte(0x80 | (code >> 6 & 0x3f));
    byte(0x80 | (code & 0x3f));
  }
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4) return false;
    std::uint32_t code = lead & (0x3fu >> more);
    for (int k = 0; k < more; ++k, ++i) {
      if (i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return false;
      code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3f);
    }
    if ((more == 2 && code < 0x800) || (more == 3 && code < 0x10000) || code > kMaxCodePoint ||
        is_high_surrogate(code) || is_low_surrogate(code)) {
      return false;
    }
  }
  return true;
}

std::string Token::describe() const {
  if (kind == Kind::End) return "the end of the file";
  constexpr std::size_t kShown = 40;
  std::string shown(text.substr(0, kShown));
  return kind == Kind::String ? "a string" : "'" + shown + (text.size() > kShown ? "...'" : "'");
}

TextLexer::TextLexer(std::string_view text, std::string_view filename)
    : text_(text), filename_(filename) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text_.starts_with(kByteOrderMark)) line_begin_ = offset_ = kByteOrderMark.size();
}

std::unexpected<Error> TextLexer::error(Position at, const std::string& message) const {
  return failure(
      ErrorCode::InvalidArgument,
      Diagnostic{Diagnostic::Severity::Error, filename_, at.line, at.column, message}.describe());
}

Position TextLexer::here() const noexcept {
  return {line_, static_cast<int>(offset_ - line_begin_) + 1};
}

void TextLexer::advance() noexcept {
  if (text_[offset_++] == '\n') {
    ++line_;
    line_begin_ = offset_;
  }
}

void TextLexer::skip_blanks() noexcept {
  while (!at_end()) {
    if (peek() == '#') {
      while (!at_end() && peek() != '\n') advance();
    } else if (is_blank(peek())) {
      advance();
    } else {
      return;
    }
  }
}

Result<Token> TextLexer::next() {
  skip_blanks();
  Token token;
  token.at = here();
  if (at_end()) return token;
  std::size_t begin = offset_;
  char c = peek();
  if (c == '"' || c == '\'') return string(std::move(token));
  if (is_digit(c) || (c == '.' && is_digit(peek(1)))) return number(std::move(token));
  if (is_letter(c)) {
    token.kind = Token::Kind::Identifier;
    while (is_letter(peek()) || is_digit(peek())) advance();
  } else if (std::string_view("{}<>[]:,;-./").find(c) != std::string_view::npos) {
    token.kind = Token::Kind::Symbol;
    advance();
  } else if (c > ' ' && c < '\x7f') {
    return error(token.at, std::string("unexpected character '") + c + "'");
  } else {
    return error(token.at,
                 "unexpected byte " + std::to_string(static_cast<unsigned char>(c)) +
                     " outside a string: only strings and comments may hold other than ASCII");
  }
  token.text = text_.substr(begin, offset_ - begin);
  return token;
}

Result<Token> TextLexer::number(Token token) {
  std::size_t begin = offset_;
  token.kind = Token::Kind::Integer;
  if (peek() == '0' && (peek(1) == 'x' || peek(1) == 'X')) {
    advance();
    advance();
    if (hex_value(peek()) < 0)
      return error(token.at, "\"0x\" must be followed by hexadecimal digits");
    while (hex_value(peek()) >= 0) advance();
  } else {
    bool octal = peek() == '0' && is_digit(peek(1));
    while (is_digit(peek())) {
      if (octal && !is_octal(peek()))
        return error(token.at, "a number that begins with 0 is octal: digits are 0 to 7");
      advance();
    }
    bool fraction = !octal && peek() == '.';
    if (fraction) {
      advance();
      while (is_digit(peek())) advance();
    }
    bool exponent = !octal && (peek() == 'e' || peek() == 'E');
    if (exponent) {
      advance();
      if (peek() == '+' || peek() == '-') advance();
      if (!is_digit(peek())) return error(token.at, "an exponent needs digits");
      while (is_digit(peek())) advance();
    }
    token.text = text_.substr(begin, offset_ - begin);  // without the suffix
    bool suffix = !octal && (peek() == 'f' || peek() == 'F');
    if (suffix) advance();
    if (fraction || exponent || suffix) token.kind = Token::Kind::Float;
  }
  if (token.kind == Token::Kind::Integer) token.text = text_.substr(begin, offset_ - begin);
  if (is_letter(peek()) || is_digit(peek()) || peek() == '.') {
    return error(here(), "a blank is missing between the number and what follows it");
  }
  return token;
}

Result<Token> TextLexer::string(Token token) {
  token.kind = Token::Kind::String;
  std::size_t begin = offset_;
  char quote = peek();
  advance();
  while (peek() != quote || at_end()) {
    if (at_end()) return error(token.at, "the string that begins here is never closed");
    if (peek() == '\n')
      return error(token.at, "the string that begins here must be closed on the same line");
    if (peek() == '\0') return error(here(), "a string may hold no NUL byte; write \\000");
    if (peek() == '\\') {
      if (auto escaped = escape(token.value); !escaped) return std::unexpected(escaped.error());
    } else {
      token.value.push_back(peek());
      advance();
    }
  }
  advance();
  token.text = text_.substr(begin, offset_ - begin);
  return token;
}

Result<void> TextLexer::escape(std::string& value) {
  Position at = here();
  advance();
  char c = peek();
  constexpr std::string_view kNames = "abfnrtv?\\'\"";
  constexpr std::string_view kValues = "\a\b\f\n\r\t\v?\\'\"";
  if (is_octal(c)) {
    unsigned code = 0;
    for (int i = 0; i < 3 && is_octal(peek()); ++i, advance())
      code = code * 8 + static_cast<unsigned>(peek() - '0');
    if (code > 0xff) return error(at, "an octal escape may be \\377 at most");
    value.push_back(static_cast<char>(code));
    return {};
  }
  if (at_end() || c == '\0') return error(at, "a backslash must be followed by an escape");
  advance();
  if (c == 'x' || c == 'X') {
    if (hex_value(peek()) < 0) return error(at, "\\x must be followed by hexadecimal digits");
    int code = 0;
    for (int i = 0; i < 2 && hex_value(peek()) >= 0; ++i, advance())
      code = code * 16 + hex_value(peek());
    value.push_back(static_cast<char>(code));
    return {};
  }
  if (c == 'u') return unicode_escape(value, at, 4);
  if (c == 'U') return unicode_escape(value, at, 8);
  auto index = kNames.find(c);
  if (index == std::string_view::npos)
    return error(at, "there is no such escape; a backslash itself is written \\\\");
  value.push_back(kValues[index]);
  return {};
}

Result<std::uint32_t> TextLexer::hex_digits(Position at, int digits) {
  std::uint32_t code = 0;
  for (int i = 0; i < digits; ++i, advance()) {
    if (hex_value(peek()) < 0) {
      return error(at, "\\u must be followed by 4 and \\U by 8 hexadecimal digits");
    }
    code = code << 4 | static_cast<std::uint32_t>(hex_value(peek()));
  }
  return code;
}

// A pair of surrogates is one character, as in JSON.
Result<void> TextLexer::unicode_escape(std::string& value, Position at, int digits) {
  auto code = hex_digits(at, digits);
  if (!code) return std::unexpected(code.error());
  if (is_high_surrogate(*code) && peek() == '\\' && peek(1) == 'u') {
    advance();
    advance();
    auto low = hex_digits(at, 4);
    if (!low) return std::unexpected(low.error());
    if (!is_low_surrogate(*low)) return error(at, "half of a surrogate pair is no character");
    code = 0x10000 + ((*code - 0xd800) << 10) + (*low - 0xdc00);
  }
  if (is_high_surrogate(*code) || is_low_surrogate(*code))
    return error(at, "half of a surrogate pair is no character");
  if (*code > kMaxCodePoint)
    return error(at, "there is no such character: the last one is \\U0010FFFF");
  append_utf8(value, *code);
  return {};
}

}  // namespace tensorferry::server
