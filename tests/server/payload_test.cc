#include "payload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// $TENSORFERRY_PAYLOAD as the test wants it, put back at its end.
class PayloadTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* set = std::getenv(kVariable)) before_ = set;
    ::unsetenv(kVariable);
  }
  void TearDown() override {
    if (before_) {
      ::setenv(kVariable, before_->c_str(), 1);
    } else {
      ::unsetenv(kVariable);
    }
    fs::remove_all(beside_program());
  }
  static fs::path beside_program() {
    return fs::read_symlink("/proc/self/exe").parent_path().parent_path() /
           "lib/tensorferry/payload";
  }
  static constexpr const char* kVariable = "TENSORFERRY_PAYLOAD";

 private:
  std::optional<std::string> before_;
};

TEST_F(PayloadTest, WhatTheOptionNamesIsTakenAsItIs) {
  ::setenv(kVariable, "/from/the/environment", 1);
  EXPECT_EQ(find_payload("/wanted").value(), "/wanted");
}

TEST_F(PayloadTest, TheVariableNamesItOtherwise) {
  ::setenv(kVariable, "/from/the/environment", 1);
  EXPECT_EQ(find_payload({}).value(), "/from/the/environment");
}

TEST_F(PayloadTest, ItIsFoundBesideTheProgram) {
  fs::create_directories(beside_program());
  std::ofstream(beside_program() / "launch.py") << "";
  EXPECT_EQ(find_payload({}).value(), beside_program());
}

TEST_F(PayloadTest, WhereItIsNowhereTheErrorHasThePlacesAndTheWayOut) {
  auto found = find_payload({});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::NotFound);
  EXPECT_THAT(found.error().message, HasSubstr(beside_program().string()));
  EXPECT_THAT(found.error().message, HasSubstr("ServerOptions::payload"));
}

}  // namespace
}  // namespace tensorferry::server
