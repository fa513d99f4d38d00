#include "background.h"

#include <gtest/gtest.h>

#include <future>
#include <vector>

namespace tensorferry::server {
namespace {

TEST(Background, RunsJobsInOrderOnAThreadOfItsOwn) {
  Background background;
  std::vector<int> ran;
  std::promise<std::thread::id> last;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(background.run([&ran, i] { ran.push_back(i); }));
  EXPECT_TRUE(background.run([&last] { last.set_value(std::this_thread::get_id()); }));
  EXPECT_NE(last.get_future().get(), std::this_thread::get_id());
  EXPECT_EQ(ran, (std::vector<int>{0, 1, 2}));
}

TEST(Background, EndsWithTheJobThatRunsAndDropsTheRest) {
  std::promise<void> begun, go_on;
  auto held = std::make_shared<int>();
  bool ran = false;
  std::future<void> ended;
  {
    auto background = std::make_unique<Background>();
    background->run([&] {
      begun.set_value();
      go_on.get_future().wait();
    });
    background->run([&ran, held] { ran = true; });
    begun.get_future().wait();
    ended = std::async(std::launch::async,
                       [owned = std::move(background)]() mutable { owned.reset(); });
    while (held.use_count() < 2) std::this_thread::yield();
  }
  go_on.set_value();
  ended.wait();
  EXPECT_EQ(held.use_count(), 1);
}

TEST(Background, WithoutAJobHasNoThread) { Background unused; }

}  // namespace
}  // namespace tensorferry::server
