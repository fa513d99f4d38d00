#include "line_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <string>
#include <vector>

namespace tensorferry::server {
namespace {

using testing::ElementsAre;

class Lines final : public Logger {
 public:
  void write(const LogRecord& record) noexcept override {
    sources.emplace_back(record.source);
    texts.emplace_back(record.text);
  }
  std::vector<std::string> sources, texts;
};

class LineLogTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::pipe2(fds_, O_CLOEXEC | O_NONBLOCK), 0);
    ::fcntl(fds_[1], F_SETPIPE_SZ, 1 << 20);
  }
  void TearDown() override {
    ::close(fds_[0]);
    if (fds_[1] >= 0) ::close(fds_[1]);
  }
  void print(std::string_view text) {
    ASSERT_EQ(::write(fds_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close_writer() { ::close(std::exchange(fds_[1], -1)); }
  bool read() { return log_.read_from(fds_[0]); }

  int fds_[2] = {-1, -1};
  std::shared_ptr<Lines> lines_ = std::make_shared<Lines>();
  LineLog log_{lines_, LogLevel::Info, "m_0_0 stdout"};
};

TEST_F(LineLogTest, LinesAreLoggedWithTheirSource) {
  print("one\ntwo\n");
  EXPECT_TRUE(read());
  EXPECT_THAT(lines_->texts, ElementsAre("one", "two"));
  EXPECT_THAT(lines_->sources, ElementsAre("m_0_0 stdout", "m_0_0 stdout"));
}

TEST_F(LineLogTest, ALineMayComeInParts) {
  print("one, ");
  EXPECT_TRUE(read());
  EXPECT_TRUE(lines_->texts.empty());
  print("and more\nthe ");
  EXPECT_TRUE(read());
  print("rest");
  close_writer();
  EXPECT_FALSE(read()) << "the end";
  log_.finish();
  log_.finish();
  EXPECT_THAT(lines_->texts, ElementsAre("one, and more", "the rest"));
}

TEST_F(LineLogTest, NothingToReadIsNoEnd) {
  EXPECT_TRUE(read());
  print("\n");
  EXPECT_TRUE(read());
  EXPECT_THAT(lines_->texts, ElementsAre(""));
}

TEST_F(LineLogTest, WhatNeverEndsIsCutAndTakesNoMemory) {
  const std::string part(60'000, 'x');
  std::size_t printed = 0;
  for (int i = 0; i < 20; ++i) {
    print(part);
    printed += part.size();
    EXPECT_TRUE(read());
  }
  log_.finish();
  std::size_t logged = 0;
  for (const std::string& text : lines_->texts) {
    EXPECT_LE(text.size(), 64u << 10);
    logged += text.size();
  }
  EXPECT_EQ(logged, printed);
  EXPECT_GT(lines_->texts.size(), 10u);
}

TEST_F(LineLogTest, OneCallReadsOnlySoMuch) {
  print(std::string(500'000, 'x') + "\n");
  EXPECT_TRUE(read());
  std::size_t logged = 0;
  for (const std::string& text : lines_->texts) logged += text.size();
  EXPECT_LT(logged, 300'000u) << "a supervisor has more to do";
}

TEST_F(LineLogTest, TheLastWordsAreTheLastLines) {
  EXPECT_EQ(log_.last_words(), "");
  std::string text;
  for (int i = 0; i < 100; ++i) text += "line " + std::to_string(i) + "\n";
  print(text + "and no newline");
  EXPECT_TRUE(read());
  log_.finish();
  const std::string words = log_.last_words();
  EXPECT_THAT(words, testing::StartsWith("line 61\n"));
  EXPECT_THAT(words, testing::EndsWith("line 99\nand no newline"));
}

}  // namespace
}  // namespace tensorferry::server
