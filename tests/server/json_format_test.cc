// Protobuf's JSON form of a config, on Triton's schema.
#include "json_format.h"

#include <gmock/gmock.h>

#include "config_schema.h"

namespace tensorferry::server {
namespace {

using testing::HasSubstr;

Result<Document> read(std::string_view json) { return read_json(json, "m", model_config_schema()); }
Json value(std::string_view json) {
  auto document = read(json);
  EXPECT_TRUE(document) << document.error().message;
  return document ? document->value : Json{};
}
void expect_refused(std::string_view json, const std::string& words) {
  auto document = read(json);
  ASSERT_FALSE(document) << json;
  EXPECT_EQ(document.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(document.error().message, HasSubstr(words)) << json;
  EXPECT_THAT(document.error().message, testing::StartsWith("m: "));
}

TEST(JsonFormatTest, NamesMayBeAsInTheFileOrInCamelCase) {
  EXPECT_EQ(value(R"({"max_batch_size": 4})"), value(R"({"maxBatchSize": 4})"));
  EXPECT_EQ(value(R"({"maxBatchSize": 4})")["max_batch_size"], 4);
}

TEST(JsonFormatTest, NumbersMayBeTextAndWholeFloats) {
  EXPECT_EQ(value(R"({"input": [{"dims": ["3", -1, 2.0]}]})")["input"][0]["dims"],
            Json::parse("[3, -1, 2]"));
  expect_refused(R"({"max_batch_size": 1.5})", "max_batch_size");
  expect_refused(R"({"max_batch_size": "many"})", "max_batch_size");
  expect_refused(R"({"max_batch_size": 2147483648})", "max_batch_size");
  expect_refused(R"({"input": [{"dims": [9223372036854775808]}]})", "input[0].dims");
}

TEST(JsonFormatTest, EnumsAreNamesOrNumbers) {
  EXPECT_EQ(value(R"({"input": [{"data_type": "TYPE_FP32"}]})"),
            value(R"({"input": [{"data_type": 11}]})"));
  expect_refused(R"({"input": [{"data_type": "TYPE_FP7"}]})", "input[0].data_type");
  expect_refused(R"({"input": [{"data_type": 999}]})", "input[0].data_type");
}

TEST(JsonFormatTest, NullIsTheDefault) {
  EXPECT_EQ(value(R"({"max_batch_size": null, "name": "m"})"), value(R"({"name": "m"})"));
}

TEST(JsonFormatTest, WhatDoesNotFitIsNamedByItsField) {
  expect_refused(R"({"no_such_field": 1})", "no_such_field");
  expect_refused(R"({"input": {}})", "input");
  expect_refused(R"({"input": [7]})", "input[0]");
  expect_refused(R"({"name": 7})", "name");
  expect_refused(R"([])", "");
  expect_refused(R"({"name": )", "");
  expect_refused("", "");
}

TEST(JsonFormatTest, WhatIsNestedWithoutEndIsRefused) {
  expect_refused(std::string(100'000, '[') + std::string(100'000, ']'), "");
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += "{\"input\":";
  expect_refused(deep, "");
}

TEST(JsonFormatTest, DefaultsArePrintedButForMessages) {
  Json full =
      with_defaults(value(R"({"name": "m", "input": [{"name": "IN"}]})"), model_config_schema());
  EXPECT_EQ(full["max_batch_size"], 0);
  EXPECT_EQ(full["input"][0]["data_type"], "TYPE_INVALID");
  EXPECT_EQ(full["input"][0]["dims"], Json::array());
  EXPECT_EQ(full["input"][0]["optional"], false);
  EXPECT_FALSE(full.contains("dynamic_batching")) << "there is none until it is given";
  EXPECT_EQ(with_defaults(full, model_config_schema()), full) << "nothing is left to add";
}

}  // namespace
}  // namespace tensorferry::server
