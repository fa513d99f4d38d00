// Which interpreter a model gets.
#include "execution_env.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class ExecutionEnvTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::temp_directory_path() / ("tensorferry-env-" + std::to_string(::getpid()) + "-" +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_ / "payload");
    std::ofstream(folder_ / "payload" / "launch.py") << "\n";
    config_ = ModelConfig::empty("m");
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A program at `path` below the folder.
  std::string program(const std::string& path) {
    fs::create_directories((folder_ / path).parent_path());
    std::ofstream(folder_ / path) << "#!/bin/sh\n";
    fs::permissions(folder_ / path, fs::perms::owner_all);
    return (folder_ / path).string();
  }
  Result<StubCommand> command(const std::string& python = {}) {
    return stub_command(config_, folder_ / "model", python, folder_ / "payload");
  }
  void expect_refused(const std::string& words) {
    auto refused = command();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::NotFound);
    EXPECT_THAT(refused.error().message, HasSubstr(words));
  }

  fs::path folder_;
  ModelConfig config_;
};

TEST_F(ExecutionEnvTest, TheServersInterpreterIsTheDefault) {
  const std::string python = program("bin/python3.12");
  EXPECT_EQ(command(python)->interpreter, python);
  EXPECT_EQ(command(python)->launcher, folder_ / "payload" / "launch.py");
  EXPECT_TRUE(command(python)->environment.empty());
}

TEST_F(ExecutionEnvTest, ANameIsLookedUpInPath) {
  program("somewhere/my-python");
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", ("/nowhere:" + (folder_ / "somewhere").string() + ":" + path).c_str(), 1);
  EXPECT_EQ(command("my-python")->interpreter, (folder_ / "somewhere/my-python").string());
  config_.parameters["TENSORFERRY_PYTHON"] = "my-python";
  EXPECT_EQ(command("/not/used")->interpreter, (folder_ / "somewhere/my-python").string());
  ::setenv("PATH", path.c_str(), 1);
}

TEST_F(ExecutionEnvTest, AModelMayNameAnInterpreter) {
  config_.parameters["TENSORFERRY_PYTHON"] = program("other/python3");
  EXPECT_EQ(command()->interpreter, (folder_ / "other/python3").string());
}

TEST_F(ExecutionEnvTest, TheFolderOfAnEnvironmentIsActivated) {
  program("venv/bin/python");
  for (const char* key : {"TENSORFERRY_PYTHON", "EXECUTION_ENV_PATH"}) {
    config_.parameters = {{key, (folder_ / "venv").string()}};
    auto chosen = command();
    ASSERT_TRUE(chosen) << chosen.error().message;
    EXPECT_EQ(chosen->interpreter, (folder_ / "venv/bin/python").string());
    EXPECT_EQ(chosen->environment.at("VIRTUAL_ENV"), (folder_ / "venv").string());
    EXPECT_THAT(*chosen->environment.at("PATH"),
                testing::StartsWith((folder_ / "venv/bin").string() + ":"));
    EXPECT_EQ(chosen->environment.at("PYTHONHOME"), std::nullopt) << "taken out";
  }
}

TEST_F(ExecutionEnvTest, ACondaEnvironmentIsActivatedAsCondaDoesIt) {
  program("conda/bin/python");
  fs::create_directories(folder_ / "conda" / "conda-meta");
  config_.parameters = {{"TENSORFERRY_PYTHON", (folder_ / "conda").string()}};
  auto chosen = command();
  ASSERT_TRUE(chosen) << chosen.error().message;
  EXPECT_EQ(chosen->environment.at("CONDA_PREFIX"), (folder_ / "conda").string());
  EXPECT_EQ(chosen->environment.at("VIRTUAL_ENV"), std::nullopt) << "that of the server's shell";
}

TEST_F(ExecutionEnvTest, TheModelsFolderHasAName) {
  program("model/env/bin/python3");
  config_.parameters["EXECUTION_ENV_PATH"] = "$$TRITON_MODEL_DIRECTORY/env";
  EXPECT_EQ(command()->interpreter, (folder_ / "model/env/bin/python3").string());
}

TEST_F(ExecutionEnvTest, OursGoesBeforeTritons) {
  config_.parameters["TENSORFERRY_PYTHON"] = program("ours/python3");
  config_.parameters["EXECUTION_ENV_PATH"] = "/not/there";
  EXPECT_EQ(command()->interpreter, (folder_ / "ours/python3").string());
}

TEST_F(ExecutionEnvTest, WhatIsMissingIsNamedWithItsParameter) {
  config_.parameters = {{"TENSORFERRY_PYTHON", "/not/there/python"}};
  expect_refused("parameter TENSORFERRY_PYTHON of model 'm' names '/not/there/python'");
  fs::create_directories(folder_ / "bare");
  config_.parameters = {{"TENSORFERRY_PYTHON", (folder_ / "bare").string()}};
  expect_refused("has no bin/python that can be run");
  config_.parameters = {{"EXECUTION_ENV_PATH", "/not/there"}};
  expect_refused("there is no such folder");
  std::ofstream(folder_ / "env.tar.gz") << "x";
  config_.parameters = {{"EXECUTION_ENV_PATH", (folder_ / "env.tar.gz").string()}};
  expect_refused("unpack the archive and name the folder");
}

TEST_F(ExecutionEnvTest, AFileThatCannotBeRunIsNoInterpreter) {
  const std::string path = program("plain/python");
  fs::permissions(path, fs::perms::owner_read);
  config_.parameters["TENSORFERRY_PYTHON"] = path;
  expect_refused("no such interpreter that can be run");
}

TEST_F(ExecutionEnvTest, AMissingDefaultOrPayloadSaysWhatToSet) {
  auto refused = command("/not/there/python3");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("/not/there/python3"), HasSubstr("TENSORFERRY_PYTHON")));
  fs::remove(folder_ / "payload" / "launch.py");
  refused = command(program("bin/python"));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("TENSORFERRY_PAYLOAD"));
}

}  // namespace
}  // namespace tensorferry::server
