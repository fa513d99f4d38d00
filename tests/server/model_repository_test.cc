// The model repository: which models, which version, which file.
#include "model_repository.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class ModelRepository : public testing::Test {
 protected:
  ModelRepository() {
    std::string name = (fs::temp_directory_path() / "repository-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
  }
  ~ModelRepository() override { fs::remove_all(root_); }

  void write(const std::string& path, std::string_view text = "") {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::string refusal(const std::string& name) {
    auto found = find_model(root_, name);
    return found ? "found" : found.error().message;
  }

  fs::path root_;
};

TEST_F(ModelRepository, ListsTheFoldersThatAreModels) {
  write("b/1/model.py");
  write("a/config.pbtxt");
  write(".git/1/model.py");
  write("__pycache__/1/x");
  write("notes/readme");
  write("file");
  EXPECT_THAT(list_models(root_).value(), ElementsAre("a", "b"));
}

TEST_F(ModelRepository, AMissingRepositoryIsNamed) {
  auto listed = list_models(root_ / "none");
  ASSERT_FALSE(listed);
  EXPECT_EQ(listed.error().code, ErrorCode::NotFound);
  EXPECT_THAT(listed.error().message, HasSubstr((root_ / "none").string()));
}

TEST_F(ModelRepository, TheHighestVersionIsServed) {
  write("m/1/model.py");
  write("m/10/model.py");
  write("m/9/model.py");
  write("m/011/model.py");
  write("m/v12/model.py");
  write("m/13");
  auto found = find_model(root_, "m");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->version, 10);
  EXPECT_EQ(found->model_file, root_ / "m/10/model.py");
  EXPECT_EQ(found->directory, root_ / "m");
}

TEST_F(ModelRepository, AVersionPolicyPicksAmongWhatIsThere) {
  write("m/config.pbtxt", "version_policy { specific { versions: [ 1, 2, 7 ] } }");
  write("m/1/model.py");
  write("m/2/model.py");
  write("m/3/model.py");
  EXPECT_EQ(find_model(root_, "m").value().version, 2);
  fs::remove_all(root_ / "m/1");
  fs::remove_all(root_ / "m/2");
  EXPECT_THAT(refusal("m"), HasSubstr("which has 3"));
}

TEST_F(ModelRepository, AModelWithoutConfigBeginsWithAnEmptyOne) {
  write("m/1/model.py");
  auto found = find_model(root_, "m");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->config.name, "m");
  EXPECT_EQ(found->config.backend, "python");
  EXPECT_THAT(found->config.inputs, IsEmpty());
}

TEST_F(ModelRepository, TheFileNameOfTheConfigIsLookedFor) {
  write("m/config.pbtxt", "default_model_filename: 'other.py'");
  write("m/1/model.py");
  EXPECT_THAT(refusal("m"), HasSubstr("Python model file not found in '" +
                                      (root_ / "m/1/other.py").string() + "'"));
  write("m/1/other.py");
  EXPECT_EQ(find_model(root_, "m").value().model_file, root_ / "m/1/other.py");
}

TEST_F(ModelRepository, WarningsComeWithTheModel) {
  write("m/config.pbtxt", "response_cache { enable: true }");
  write("m/1/model.py");
  auto found = find_model(root_, "m");
  ASSERT_TRUE(found);
  ASSERT_THAT(found->warnings, SizeIs(1));
  EXPECT_THAT(found->warnings[0],
              HasSubstr((root_ / "m/config.pbtxt").string() + ":1:1: warning: 'response_cache'"));
}

TEST_F(ModelRepository, WhatIsMissingIsNamedByItsPath) {
  EXPECT_THAT(refusal("none"), HasSubstr((root_ / "none").string()));
  write("m/config.pbtxt");
  EXPECT_THAT(refusal("m"), HasSubstr((root_ / "m/1/model.py").string()));
  write("bad/config.pbtxt", "\n nme: 1");
  EXPECT_THAT(refusal("bad"), HasSubstr((root_ / "bad/config.pbtxt").string() + ":2:2: error:"));
}

TEST_F(ModelRepository, ANameCannotLeaveTheRepository) {
  for (const char* name : {"", ".", "..", "../x", "a/b", "\xff"}) {
    EXPECT_THAT(refusal(name), HasSubstr("can't be the name of a model")) << name;
  }
}

TEST_F(ModelRepository, ACheckReportsEveryModelAndGoesOnAfterErrors) {
  write("bad/config.pbtxt", "backend: 'x' max_batch_size: -1");
  write("good/1/model.py", "raise RuntimeError('imported')");
  write("notes/readme");
  write("nofile/1/other");
  auto checks = check_repository(root_);
  ASSERT_TRUE(checks);
  ASSERT_THAT(*checks, SizeIs(4));
  EXPECT_EQ((*checks)[0].name, "bad");
  EXPECT_THAT((*checks)[0].diagnostics, SizeIs(2));
  EXPECT_FALSE((*checks)[0].ok());
  EXPECT_TRUE((*checks)[1].ok());
  EXPECT_EQ((*checks)[1].version, 1);
  EXPECT_EQ((*checks)[1].model_file, root_ / "good/1/model.py");
  EXPECT_FALSE((*checks)[2].ok());
  EXPECT_TRUE((*checks)[3].ok());
  EXPECT_THAT((*checks)[3].diagnostics, SizeIs(1));
}

}  // namespace
}  // namespace tensorferry::server
