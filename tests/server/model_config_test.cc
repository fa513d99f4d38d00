// ModelConfig: what is honoured, filled in, warned about and refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tensorferry/server/model_config.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "config_schema.h"
#include "knobs.h"

namespace tensorferry::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr std::string_view kWhole = R"(
name: "m"
backend: "tensorferry"
max_batch_size: 8
input { name: "A" data_type: TYPE_FP32 dims: [ 3, -1 ] optional: true }
output { name: "B" data_type: TYPE_STRING dims: 1 }
instance_group [ { count: 2 }, { name: "gpu" kind: KIND_GPU count: 1 gpus: [ 0, 1 ] } ]
dynamic_batching { preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 100
                   default_queue_policy { max_queue_size: 7 } }
parameters { key: "TENSORFERRY_EXECUTE_TIMEOUT_S" value { string_value: "1.5" } }
version_policy { specific { versions: 3 } }
default_model_filename: "other.py"
)";

ModelConfig config(std::string_view text) {
  auto read = ModelConfig::from_text(text, "c.pbtxt", "m");
  EXPECT_TRUE(read) << read.error().message;
  return read ? *read : ModelConfig{};
}

std::string refusal(std::string_view text) {
  auto read = ModelConfig::from_text(text, "c.pbtxt", "m");
  return read ? "accepted" : read.error().message;
}

TEST(ModelConfig, HoldsWhatTheFileSays) {
  ModelConfig read = config(kWhole);
  EXPECT_EQ(read.backend, "tensorferry");
  EXPECT_EQ(read.max_batch_size, 8);
  ASSERT_THAT(read.inputs, SizeIs(1));
  EXPECT_EQ(read.inputs[0].dtype, kFloat32);
  EXPECT_THAT(read.inputs[0].dims, ElementsAre(3, -1));
  EXPECT_TRUE(read.inputs[0].optional);
  EXPECT_EQ(read.outputs.at(0).dtype, kBytes);
  ASSERT_THAT(read.instance_groups, SizeIs(2));
  EXPECT_EQ(read.instance_groups[0].name, "m_0");
  EXPECT_EQ(read.instance_groups[0].kind, "CPU");
  EXPECT_EQ(read.instance_groups[1].kind, "GPU");
  EXPECT_THAT(read.instance_groups[1].gpus, ElementsAre(0, 1));
  ASSERT_TRUE(read.dynamic_batching);
  EXPECT_THAT(read.dynamic_batching->preferred_batch_size, ElementsAre(4, 8));
  EXPECT_EQ(read.dynamic_batching->max_queue_delay_us, 100);
  EXPECT_EQ(read.dynamic_batching->max_queue_size, 7u);
  EXPECT_EQ(read.parameters.at("TENSORFERRY_EXECUTE_TIMEOUT_S"), "1.5");
  EXPECT_THAT(read.version_policy.specific, ElementsAre(3));
  EXPECT_EQ(read.default_model_filename, "other.py");
  EXPECT_THAT(read.warnings, IsEmpty());
}

TEST(ModelConfig, AnEmptyFileIsAModelWithOneInstanceAndDefaultsFilledIn) {
  ModelConfig read = config("");
  EXPECT_EQ(read.name, "m");
  ASSERT_THAT(read.instance_groups, SizeIs(1));
  EXPECT_EQ(read.instance_groups[0].count, 1);
  EXPECT_THAT(read.json, HasSubstr(R"("name":"m")"));
  EXPECT_THAT(read.json, HasSubstr(R"("backend":"python")"));
  EXPECT_THAT(read.json, HasSubstr(R"("default_model_filename":"model.py")"));
  EXPECT_THAT(read.json,
              HasSubstr(R"("instance_group":[{"name":"m_0","kind":"KIND_CPU","count":1)"));
  EXPECT_EQ(ModelConfig::empty("m").json, read.json);
}

TEST(ModelConfig, ItsJsonReadsBackAsTheSameConfig) {
  ModelConfig read = config(kWhole);
  auto again = ModelConfig::from_json(read.json, "m");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->json, read.json);
}

TEST(ModelConfig, JsonOfAutoCompleteGetsItsDefaults) {
  auto read = ModelConfig::from_json(
      R"({"name":"m","maxBatchSize":4,"input":[{"name":"A","data_type":"TYPE_FP32","dims":[3,"-1"]}],"platform":null})",
      "m");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->max_batch_size, 4);
  EXPECT_THAT(read->inputs.at(0).dims, ElementsAre(3, -1));
  EXPECT_THAT(read->json, HasSubstr(R"("optional":false)"));
}

TEST(ModelConfig, AnErrorInJsonNamesTheModelAndTheField) {
  auto refused = [](std::string_view json) {
    return ModelConfig::from_json(json, "m").error().message;
  };
  EXPECT_THAT(refused(R"({"input":[{"dim":[1]}]})"),
              HasSubstr("the config of model 'm': field 'input[0].dim' is unknown"));
  EXPECT_THAT(refused(R"({"max_batch_size":"x"})"),
              HasSubstr("must be a 32-bit integer, not \"x\""));
  EXPECT_THAT(refused(R"({"max_batch_size":2147483648})"), HasSubstr("must be a 32-bit integer"));
  EXPECT_THAT(refused(R"({"max_batch_size":1.5})"), HasSubstr("must be a 32-bit integer"));
  EXPECT_THAT(refused("{"), HasSubstr("it is not JSON"));
  EXPECT_THAT(refused("[]"), HasSubstr("it must be an object"));
  EXPECT_THAT(refused(R"({"sequence_batching":{}})"),
              HasSubstr("'sequence_batching' is not supported"));
}

TEST(ModelConfig, EveryErrorIsReportedNotOnlyTheFirst) {
  auto found = check_config("backend: 'onnx'\nmax_batch_size: -1\nresponse_cache { enable: true }",
                            "c.pbtxt", "m");
  ASSERT_THAT(found, SizeIs(3));
  EXPECT_THAT(found[0].describe(),
              HasSubstr("c.pbtxt:3:1: warning: 'response_cache' is ignored: there is no cache"));
  EXPECT_THAT(found[1].describe(),
              HasSubstr("c.pbtxt:1:1: error: backend 'onnx' is not served here"));
  EXPECT_THAT(found[2].describe(), HasSubstr("c.pbtxt:2:1: error: max_batch_size is -1"));
  EXPECT_THAT(refusal("backend: 'onnx'\nmax_batch_size: -1"), HasSubstr("\nc.pbtxt:2:1: error:"));
}

TEST(ModelConfig, ASyntaxErrorIsADiagnosticWithItsPlace) {
  auto found = check_config("name: 'm'\n  nme: 1", "a:b/c.pbtxt", "m");
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].line, 2);
  EXPECT_EQ(found[0].column, 3);
  EXPECT_THAT(found[0].message, testing::StartsWith("message ModelConfig has no field 'nme'"));
}

TEST(ModelConfig, AnIgnoredFieldGivesOneWarningHoweverOftenItIsSet) {
  ModelConfig read = config(
      "instance_group { rate_limiter { priority: 1 } } instance_group { rate_limiter { priority: 2 "
      "} }");
  ASSERT_THAT(read.warnings, SizeIs(1));
  EXPECT_THAT(read.warnings[0].describe(),
              HasSubstr("c.pbtxt:1:18: warning: 'rate_limiter' is ignored"));
}

TEST(ModelConfig, AFieldSetToItsDefaultAsksForNothing) {
  EXPECT_THAT(config("platform: '' model_transaction_policy { decoupled: false }").warnings,
              IsEmpty());
}

TEST(ModelConfig, WhatIsNotServedIsRefusedWithTheReason) {
  EXPECT_THAT(refusal("model_transaction_policy { decoupled: true }"),
              HasSubstr("'decoupled' is not supported"));
  EXPECT_THAT(refusal("ensemble_scheduling { step { model_name: 'a' } }"),
              HasSubstr("no scheduler for ensembles"));
  EXPECT_THAT(refusal("platform: 'onnxruntime_onnx'"), HasSubstr("write backend: \"python\""));
  EXPECT_THAT(refusal("input { name: 'a' data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }"),
              HasSubstr("'reshape'"));
}

TEST(ModelConfig, EachRuleIsChecked) {
  struct Rule {
    std::string_view text, expected;
  };
  const Rule rules[] = {
      {"name: 'other'", "c.pbtxt:1:1: error: the model's name is 'other', but its folder is 'm'"},
      {"default_model_filename: 'model.pt'",
       "Model name must end with '.py'. Model name is \"model.pt\"."},
      {"default_model_filename: '../x.py'", "must be the name of a file in the version folder"},
      {"input { data_type: TYPE_FP32 dims: 1 }", "input number 0 has no name"},
      {"input { name: 'a' dims: 1 }", "input 'a' needs a data_type"},
      {"output { name: 'a' data_type: TYPE_FP32 }", "output 'a' needs dims"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: [ 1, 0 ] }",
       "c.pbtxt:1:51: error: dimension 0 of input 'a'"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: -2 }", "dimension -2 of input 'a'"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 1 format: FORMAT_NHWC }", "needs 3 dims"},
      {"input { name: 'a' data_type: 1 dims: 1 } input { name: 'a' data_type: 1 dims: 1 }",
       "input 'a' is there twice"},
      {"instance_group { count: -1 }", "count can't be negative"},
      {"instance_group { count: 1025 }", "asks for 1025 instances"},
      {"instance_group { count: 2147483647 gpus: [ 0, 1, 2, 3 ] }", "at most 1024"},
      {"instance_group { kind: KIND_CPU gpus: 0 }", "names gpus, but has kind KIND_CPU"},
      {"max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }",
       "must be 1 to max_batch_size (4)"},
      {"parameters { key: 'FORCE_CPU_ONLY_INPUT_TENSORS' value { string_value: 'x' } }",
       "Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: x'"},
      {"parameters { key: 'TENSORFERRY_SLOW_EXECUTE_S' value { string_value: '1s' } }",
       "must be a number of seconds"},
      {"parameters { key: 'TENSORFERRY_GPU_POOL_BYTE_SIZE' value { string_value: '0' } }",
       "it must be a number of bytes"},
      {"parameters { key: 'TENSORFERRY_STRICT' value { string_value: 'yes' } }",
       "parameter TENSORFERRY_STRICT is 'yes': it must be \"0\" or \"1\""},
      {"parameters { key: 'TENSORFERRY_INPUT_PLACEMENT' value { string_value: 'A=tpu' } }",
       "'A=tpu' names a place that there is not"},
      {"version_policy { specific { } }", "version_policy names no version"},
      {"version_policy { specific { versions: 0 } }", "a version is 1 or more"},
  };
  for (const Rule& rule : rules)
    EXPECT_THAT(refusal(rule.text), HasSubstr(rule.expected)) << rule.text;
}

TEST(ModelConfig, AMisspeltSettingOfOursIsAWarning) {
  ModelConfig read = config("parameters { key: 'TENSORFERRY_PYHTON' value { string_value: 'p' } }");
  ASSERT_THAT(read.warnings, SizeIs(1));
  EXPECT_THAT(read.warnings[0].message, HasSubstr("TENSORFERRY_PYHTON is unknown"));
  EXPECT_THAT(read.warnings[0].message, HasSubstr("did you mean TENSORFERRY_PYTHON?"));
  read = config("parameters { key: 'TENSORFERRY_COLOUR' value { string_value: 'p' } }");
  EXPECT_THAT(read.warnings.at(0).message, Not(HasSubstr("did you mean")));
}

// Every field that isn't honoured must say why, or the documentation and the messages have a hole.
void expect_reasons(const schema::Message& message) {
  for (const schema::Field& field : message.fields) {
    EXPECT_TRUE(field.handling == schema::Handling::Inherit || !field.note.empty())
        << message.name << "." << field.name;
    if (field.message) expect_reasons(*field.message);
  }
}

TEST(ModelConfig, EveryDecisionHasItsReason) { expect_reasons(model_config_schema()); }

// The part of a page between marks is what the code says. TENSORFERRY_UPDATE_DOCS=1 in the
// environment writes it anew.
void expect_in_docs(const std::string& page, const std::string& mark, const std::string& part) {
  const std::string path = TENSORFERRY_TEST_DIR "/../docs/" + page;
  std::ifstream file(path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::string first = "<!-- " + mark + ": begin -->\n", last = "<!-- " + mark + ": end -->";
  auto begin = text.find(first);
  auto end = text.find(last);
  ASSERT_NE(begin, std::string::npos) << path;
  ASSERT_NE(end, std::string::npos) << path;
  begin += first.size();
  if (std::getenv("TENSORFERRY_UPDATE_DOCS")) {
    std::ofstream(path) << text.replace(begin, end - begin, part);
    return;
  }
  EXPECT_EQ(text.substr(begin, end - begin), part)
      << "docs/" << page << " is out of date: run this test with TENSORFERRY_UPDATE_DOCS=1";
}

TEST(ModelConfig, TheDocumentationHasTheTableOfTheCode) {
  expect_in_docs("model_config.md", "fields", config_fields_markdown());
}

TEST(ModelConfig, TheDocumentationHasAllKnobs) {
  expect_in_docs("knobs.md", "knobs", knobs_markdown());
}

}  // namespace
}  // namespace tensorferry::server
