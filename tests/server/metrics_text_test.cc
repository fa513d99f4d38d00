#include "metrics_text.h"

#include <gmock/gmock.h>

#include <map>
#include <set>
#include <sstream>

namespace tensorferry::server {
namespace {

using testing::HasSubstr;

ModelStatistics model() {
  ModelStatistics one;
  one.name = "add_sub";
  one.version = 3;
  one.ready = true;
  one.succeeded = 5;
  one.failed = 2;
  one.total_ns = 1'500'000'000;
  one.arena_bytes = 8192;
  one.instances.resize(1);
  one.instances[0].name = "add_sub_0_0";
  one.instances[0].restarts = 4;
  return one;
}

TEST(MetricsTextTest, ValuesStandWithTheirLabels) {
  const std::vector<ModelStatistics> models{model()};
  CopyCounts copies;
  copies.bytes[1] = 77;
  const std::string text = metrics_text(models, copies);
  const std::string labels = R"({model="add_sub",version="3")";
  EXPECT_THAT(text, HasSubstr("tensorferry_requests_total" + labels + ",outcome=\"success\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("tensorferry_requests_total" + labels + ",outcome=\"failure\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("tensorferry_ready" + labels + "} 1\n"));
  EXPECT_THAT(text, HasSubstr(labels + ",stage=\"total\"} 1.500000000\n"));
  EXPECT_THAT(text, HasSubstr(labels + ",state=\"allocated\"} 8192\n"));
  EXPECT_THAT(text, HasSubstr("tensorferry_stub_restarts_total" + labels +
                              ",instance=\"add_sub_0_0\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("{process=\"server\",kind=\"host\"} 77\n"));
}

// The exposition format: every sample after its family's HELP and TYPE, no sample twice.
TEST(MetricsTextTest, EverySampleBelongsToTheFamilyAboveIt) {
  const std::vector<ModelStatistics> models{model(), [] {
                                              ModelStatistics other = model();
                                              other.name = "other";
                                              return other;
                                            }()};
  std::istringstream text(metrics_text(models, {}));
  std::string family, line;
  std::set<std::string> seen, families;
  while (std::getline(text, line)) {
    if (line.starts_with("# HELP ")) {
      family = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(family.starts_with("tensorferry_")) << family;
      EXPECT_TRUE(families.insert(family).second) << family << " comes twice";
      std::getline(text, line);
      EXPECT_THAT(line,
                  testing::AnyOf("# TYPE " + family + " counter", "# TYPE " + family + " gauge"));
      continue;
    }
    EXPECT_TRUE(line.starts_with(family + "{")) << line << " below " << family;
    EXPECT_TRUE(seen.insert(line.substr(0, line.rfind(' '))).second) << line << " comes twice";
  }
  EXPECT_GT(families.size(), 8u);
}

TEST(MetricsTextTest, NamesAreEscaped) {
  ModelStatistics odd = model();
  odd.name = "a\"b\\c\nd";
  const std::vector<ModelStatistics> models{odd};
  EXPECT_THAT(metrics_text(models, {}), HasSubstr(R"(model="a\"b\\c\nd",version="3")"));
}

TEST(MetricsTextTest, WithoutModelsThereAreFamiliesOnly) {
  const std::string text = metrics_text({}, {});
  EXPECT_THAT(text, HasSubstr("# TYPE tensorferry_ready gauge\n"));
  EXPECT_THAT(text, HasSubstr("tensorferry_build_info{version=\""));
}

}  // namespace
}  // namespace tensorferry::server
