#include <tensorferry/transport/log.h>

#include <gtest/gtest.h>

#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace tensorferry {
namespace {

TEST(StderrLogger, WritesTimeLevelPlaceSourceAndText) {
  testing::internal::CaptureStderr();
  stderr_logger()->write({LogLevel::Warning, "model.py", 12, "add/0", "a text"});
  std::string line = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(
      line, std::regex("\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z W model\\.py:12 "
                       "\\[add/0\\] a text\n")))
      << line;
}

TEST(StderrLogger, LeavesOutWhatIsEmpty) {
  testing::internal::CaptureStderr();
  stderr_logger()->info("", "a text");
  std::string line = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(line, std::regex("\\S+ I a text\n"))) << line;
}

TEST(StderrLogger, DropsWhatIsBelowItsLevel) {
  testing::internal::CaptureStderr();
  auto log = stderr_logger(LogLevel::Error);
  log->info("s", "no");
  log->warning("s", "no");
  log->error("s", "yes");
  std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_NE(lines.find("E [s] yes\n"), std::string::npos) << lines;
  EXPECT_EQ(lines.find("no"), std::string::npos) << lines;
}

TEST(StderrLogger, KeepsLinesOfThreadsWhole) {
  testing::internal::CaptureStderr();
  auto log = stderr_logger();
  std::vector<std::jthread> threads;
  for (char letter : {'a', 'b', 'c', 'd'}) {
    threads.emplace_back([&log, letter] {
      for (int i = 0; i < 200; ++i) log->info("s", std::string(100, letter));
    });
  }
  threads.clear();
  std::istringstream lines(testing::internal::GetCapturedStderr());
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    ASSERT_GE(line.size(), 100u);
    std::string text = line.substr(line.size() - 100);
    ASSERT_EQ(text, std::string(100, text[0]));
  }
  EXPECT_EQ(count, 800);
}

TEST(NullLogger, WritesNothing) {
  testing::internal::CaptureStderr();
  null_logger()->error("s", "no");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace tensorferry
