// Splits protobuf's text format into tokens, and remembers where each begins.
#pragma once

#include <tensorferry/server/model_config.h>

#include <string>
#include <string_view>

namespace tensorferry::server {

struct Position {
  int line = 0;  // both from 1
  int column = 0;
};

struct Token {
  enum class Kind : std::uint8_t { End, Identifier, Integer, Float, String, Symbol };
  Kind kind = Kind::End;
  Position at;
  std::string_view text;  // as written; a string with its quotes
  std::string value;      // of a string: without quotes and escapes

  bool is(char symbol) const noexcept { return kind == Kind::Symbol && text[0] == symbol; }
  // For messages: "'max_batch'", "the end of the file".
  std::string describe() const;
};

// The text must outlive it. Comments and white space are skipped.
class TextLexer {
 public:
  TextLexer(std::string_view text, std::string_view filename);

  Result<Token> next();
  std::unexpected<Error> error(Position at, const std::string& message) const;

 private:
  bool at_end() const noexcept { return offset_ >= text_.size(); }
  char peek(std::size_t ahead = 0) const noexcept {
    return offset_ + ahead < text_.size() ? text_[offset_ + ahead] : '\0';
  }
  Position here() const noexcept;
  void advance() noexcept;
  void skip_blanks() noexcept;
  Result<Token> number(Token token);
  Result<Token> string(Token token);
  Result<void> escape(std::string& value);
  Result<void> unicode_escape(std::string& value, Position at, int digits);
  Result<std::uint32_t> hex_digits(Position at, int digits);

  const std::string_view text_;
  const std::string filename_;
  std::size_t offset_ = 0;
  std::size_t line_begin_ = 0;
  int line_ = 1;
};

// True for well-formed UTF-8 (no surrogates, no overlong forms).
bool is_utf8(std::string_view text) noexcept;

}  // namespace tensorferry::server
