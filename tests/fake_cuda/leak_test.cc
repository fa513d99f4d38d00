#include "program.h"

#include <string>

namespace fakecuda_test {
namespace {

void leave_things() {
  use_device();
  const auto properties = memory_properties();
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr memory = 0;
  CUevent event = nullptr;
  ASSERT_EQ(cuMemCreate(&handle, std::size_t{2} << 20, &properties, 0), CUDA_SUCCESS);
  map_whole(handle, std::size_t{2} << 20);
  ASSERT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
  ASSERT_EQ(cuEventCreate(&event, 0), CUDA_SUCCESS);
}

TEST(FakeLeaks, WhatIsLeftAtExitIsReportedWhereAskedFor) {
  Program program({"FAKECUDA_LEAKS=1"}, [](const Pipe&) { leave_things(); });
  EXPECT_EQ(program.join(), 0);
  for (const char* kind :
       {"1 mapping", "1 address range", "1 handle", "1 allocation", "1 event", "1 context"})
    EXPECT_NE(program.reports().find(kind), std::string::npos) << kind << " in\n"
                                                               << program.reports();
}

TEST(FakeLeaks, WhatAContextHadIsGoneWithItAndTheRestIsNot) {
  Program program({"FAKECUDA_LEAKS=1"}, [](const Pipe&) {
    leave_things();
    ASSERT_EQ(cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
  });
  EXPECT_EQ(program.join(), 0);
  EXPECT_EQ(program.reports().find("event"), std::string::npos) << program.reports();
  EXPECT_NE(program.reports().find("1 mapping"), std::string::npos) << program.reports();
}

TEST(FakeLeaks, WhatAKilledProcessHadCanBeRead) {
  Program program({}, [](const Pipe& pipe) {
    leave_things();
    pipe.send('d');
    pipe.receive<char>();
  });
  program.pipe().receive<char>();
  program.kill();
  program.join();
  fakecuda_live live{};
  ASSERT_EQ(fakecuda_read_live(program.state_file().c_str(), &live), 0);
  EXPECT_EQ(live.mappings, 1U);
  EXPECT_EQ(live.events, 1U);
  EXPECT_EQ(live.contexts, 1U);
  EXPECT_EQ(live.streams, 0U);
}

}  // namespace
}  // namespace fakecuda_test
