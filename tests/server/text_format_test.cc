// The reader of protobuf's text format: what it accepts, and where it says that something is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tensorferry/server/model_config.h>

#include <string>

namespace tensorferry::server {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string json(std::string_view text) {
  auto read = config_to_json(text, "c.pbtxt");
  return read ? *read : "refused: " + read.error().message;
}

std::string refusal(std::string_view text) {
  auto read = config_to_json(text, "c.pbtxt");
  if (read) return "read as " + *read;
  EXPECT_EQ(read.error().code, ErrorCode::InvalidArgument);
  return read.error().message;
}

TEST(TextFormat, PrintsDefaultsOfPrimitivesButNoMessageThatIsAbsent) {
  EXPECT_THAT(json(""), HasSubstr(R"("max_batch_size":0)"));
  EXPECT_THAT(json(""), HasSubstr(R"("input":[])"));
  EXPECT_THAT(json(""), HasSubstr(R"("parameters":{})"));
  EXPECT_THAT(json(""), testing::Not(HasSubstr("dynamic_batching")));
  EXPECT_THAT(json("dynamic_batching {}"),
              HasSubstr(R"("dynamic_batching":{"preferred_batch_size":[])"));
}

TEST(TextFormat, SixtyFourBitIntegersAreNumbersInJson) {
  EXPECT_THAT(json("input { dims: [ 3, -1 ] }"), HasSubstr(R"("dims":[3,-1])"));
  EXPECT_THAT(json("dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }"),
              HasSubstr(R"("max_queue_delay_microseconds":18446744073709551615)"));
}

TEST(TextFormat, CommentsAndBlanksMeanNothing) {
  EXPECT_EQ(json("# one\nname # two\n : # three\n 'm' #"), json("name:'m'"));
}

TEST(TextFormat, NeighbouringStringsOfBothKindsAreOne) {
  EXPECT_THAT(json("name: 'a' \"b\"\n# between\n'c'"), HasSubstr(R"("name":"abc")"));
}

TEST(TextFormat, ReadsEveryEscape) {
  EXPECT_THAT(json(R"(name: '\a\b\f\n\r\t\v\?\\\'\"\101\x42\u00e9\U0001F6A2\ud83d\udea2')"),
              HasSubstr(R"(\u0007\b\f\n\r\t\u000b?\\'\"ABé🚢🚢)"));
}

TEST(TextFormat, ListsSeparatorsAndBothBracketsAreOneGrammar) {
  std::string plain = json("input { name: 'a' dims: 1 dims: 2 } input { name: 'b' }");
  EXPECT_EQ(json("input [ { name: 'a', dims: [1, 2]; }, < name: 'b' > ];"), plain);
  EXPECT_EQ(json("input: <name:'a'dims:[0x1,02]>input:{name:'b'dims:[]}"), plain);
}

TEST(TextFormat, EnumsAreReadByNameAndByNumber) {
  EXPECT_EQ(json("input { data_type: 11 }"), json("input { data_type: TYPE_FP32 }"));
}

TEST(TextFormat, TheLastOfEqualMapKeysCounts) {
  EXPECT_THAT(json("metric_tags { key: 'k' value: '1' } metric_tags { key: 'k' value: '2' }"),
              HasSubstr(R"("metric_tags":{"k":"2"})"));
}

TEST(TextFormat, AnErrorNamesFileLineAndColumn) {
  EXPECT_THAT(refusal("name: 'm'\n  max_batch: 3"),
              StartsWith("c.pbtxt:2:3: error: message ModelConfig has no field 'max_batch'"));
  EXPECT_THAT(refusal("input {\n\tname: 3 }"),
              StartsWith("c.pbtxt:2:8: error: 'name' must be a string, found '3'"));
}

TEST(TextFormat, AnUnknownFieldIsAnErrorThatListsTheKnownOnes) {
  EXPECT_THAT(refusal("input { nme: 'a' }"),
              HasSubstr("has no field 'nme' (it has name, data_type"));
}

struct Case {
  std::string_view text;
  std::string_view expected;
};

TEST(TextFormat, EachMistakeIsNamedWhereItIs) {
  const Case cases[] = {
      {"name", ":1:5: error: expected ':' after 'name', found the end of the file"},
      {"name: 'm", ":1:7: error: the string that begins here is never closed"},
      {"name: 'm\n'", ":1:7: error: the string that begins here must be closed on the same line"},
      {"name: '\\q'", ":1:8: error: there is no such escape"},
      {"name: '\\400'", ":1:8: error: an octal escape may be \\377 at most"},
      {"name: '\\ud83d'", ":1:8: error: half of a surrogate pair"},
      {"name: '\\xff'", ":1:7: error: 'name' is not valid UTF-8"},
      {"name: '\xff'", ":1:7: error: 'name' is not valid UTF-8"},
      {"name: \xc3\xa4", ":1:7: error: unexpected byte 195 outside a string"},
      {"name: 'a'\nname: 'b'", ":2:1: error: field 'name' is given twice"},
      {"version_policy { latest {} all {} }", ":1:28: error: 'all' and 'latest' are both given"},
      {"name: [ 'a' ]", ":1:7: error: 'name' takes one value, not a list"},
      {"input { dims: [ 1 2 ] }", ":1:19: error: expected ',' or ']' in the list, found '2'"},
      {"input { dims: 1.5 }", ":1:15: error: 'dims' must be a 64-bit integer, found '1.5'"},
      {"max_batch_size: -2147483649", ":1:17: error: 'max_batch_size' must be a 32-bit integer"},
      {"max_batch_size: 4x", ":1:18: error: a blank is missing"},
      {"input { data_type: TYPE_FLOAT }",
       ":1:20: error: 'data_type' must be one of TYPE_INVALID, TYPE_BOOL"},
      {"input { optional: TRUE }", ":1:19: error: 'optional' must be true or false, found 'TRUE'"},
      {"input { >", ":1:9: error: expected '}' to close 'input', found '>'"},
      {"}", ":1:1: error: expected a field's name, found '}'"},
      {"[a.b]: 1", ":1:1: error: extensions and Any are not part of ModelConfig"},
      {"@", ":1:1: error: unexpected character '@'"},
  };
  for (const Case& one : cases) {
    EXPECT_THAT(refusal(one.text), StartsWith("c.pbtxt" + std::string(one.expected))) << one.text;
  }
}

TEST(TextFormat, EveryPrefixOfAConfigIsReadOrRefusedWithoutHarm) {
  const std::string text =
      "name: 'm' # c\ninput [ { name: \"a\\x41\" data_type: TYPE_FP32 dims: [ 1, -0x2 ] } ]\n"
      "parameters { key: 'k' value { string_value: '\\u00e9' } } optimization < cuda { graphs: t } "
      ">";
  std::size_t refused = 0;
  for (std::size_t i = 0; i <= text.size(); ++i)
    refused += !config_to_json(std::string_view(text).substr(0, i), "c");
  EXPECT_GT(refused, text.size() / 2);
  EXPECT_TRUE(config_to_json(text, "c"));
}

}  // namespace
}  // namespace tensorferry::server
