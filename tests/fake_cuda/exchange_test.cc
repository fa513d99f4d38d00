// Two processes that hand memory back and forth as a server and its stub do, and threads that share
// one driver.
#include "program.h"

#include <unistd.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

namespace fakecuda_test {
namespace {

constexpr std::size_t kChunk = std::size_t{2} << 20;
constexpr std::size_t kHalf = kChunk / 2;
constexpr int kRounds = 50;

struct Handles {
  CUipcEventHandle ready, done;
};

CUstream make_stream() {
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  return stream;
}

CUevent make_shared_event(CUipcEventHandle& handle) {
  CUevent event = nullptr;
  EXPECT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  EXPECT_EQ(cuIpcGetEventHandle(&handle, event), CUDA_SUCCESS);
  return event;
}

// Copies the first half to the second, after `ready` and before `done`, whenever it is told to.
void serve(const Pipe& pipe, bool waits) {
  use_device();
  CUmemGenericAllocationHandle handle = 0;
  const int fd = pipe.receive_fd();
  auto* source = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
  ASSERT_EQ(
      cuMemImportFromShareableHandle(&handle, source, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
      CUDA_SUCCESS);
  const CUdeviceptr chunk = map_whole(handle, kChunk);
  const auto events = pipe.receive<Handles>();
  CUevent ready = nullptr, done = nullptr;
  ASSERT_EQ(cuIpcOpenEventHandle(&ready, events.ready), CUDA_SUCCESS);
  ASSERT_EQ(cuIpcOpenEventHandle(&done, events.done), CUDA_SUCCESS);
  const CUstream stream = make_stream();
  while (pipe.receive<char>() == 'g') {
    if (waits) {
      ASSERT_EQ(cuStreamWaitEvent(stream, ready, 0), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuMemcpyDtoDAsync(chunk + kHalf, chunk, 4096, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(done, stream), CUDA_SUCCESS);
    pipe.send('d');
  }
}

// Fills, lets the other copy, polls, and looks. What came out wrong.
int ask(const Pipe& pipe) {
  use_device();
  const auto properties = memory_properties();
  CUmemGenericAllocationHandle handle = 0;
  int fd = -1;
  EXPECT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
  const CUdeviceptr chunk = map_whole(handle, kChunk);
  EXPECT_EQ(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_SUCCESS);
  pipe.send_fd(fd);
  Handles handles{};
  const CUevent ready = make_shared_event(handles.ready), done = make_shared_event(handles.done);
  pipe.send(handles);
  const CUstream stream = make_stream();
  int wrong = 0;
  for (int i = 1; i <= kRounds; ++i) {
    EXPECT_EQ(cuMemsetD8Async(chunk, static_cast<unsigned char>(i), 4096, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuEventRecord(ready, stream), CUDA_SUCCESS);
    pipe.send('g');
    pipe.receive<char>();
    while (cuEventQuery(done) == CUDA_ERROR_NOT_READY) std::this_thread::yield();
    unsigned char seen = 0;
    EXPECT_EQ(cuMemcpyDtoH(&seen, chunk + kHalf + 4095, 1), CUDA_SUCCESS);
    wrong += seen == i ? 0 : 1;
  }
  pipe.send('e');
  return wrong;
}

// The two ends of what a test's two programs talk over, since each has only the test itself at its
// own.
class Relay {
 public:
  Relay(const Program& a, const Program& b)
      : thread_([&a, &b] {
          b.pipe().send_fd(a.pipe().receive_fd());
          b.pipe().send(a.pipe().receive<Handles>());
          for (char word = 0; (word = a.pipe().receive<char>()) == 'g';) {
            b.pipe().send(word);
            a.pipe().send(b.pipe().receive<char>());
          }
          b.pipe().send('e');
        }) {}
  ~Relay() { thread_.join(); }

 private:
  std::thread thread_;
};

class FakeExchange : public testing::TestWithParam<std::string> {};

TEST_P(FakeExchange, MemoryGoesThereAndBackWithoutAHostWait) {
  const std::string scheduler = "FAKECUDA_SCHED=" + GetParam();
  Program stub({scheduler}, [](const Pipe& pipe) { serve(pipe, true); });
  Program server({scheduler}, [](const Pipe& pipe) {
    EXPECT_EQ(ask(pipe), 0);
    EXPECT_EQ(reports_here(), "");
  });
  {
    const Relay relay(server, stub);
  }
  EXPECT_EQ(server.join(), 0);
  EXPECT_EQ(stub.join(), 0);
  EXPECT_EQ(stub.reports(), "");
  EXPECT_EQ(
      stub.counters().stream_syncs + stub.counters().event_syncs + stub.counters().implicit_syncs,
      0U);
}

INSTANTIATE_TEST_SUITE_P(Schedulers, FakeExchange,
                         testing::Values("eager", "lazy", "random:1", "random:2", "random:3"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           for (char& letter : name) letter = letter == ':' ? '_' : letter;
                           return name;
                         });

TEST(FakeExchangeWithoutWait, IsCaughtByResultAndByReport) {
  Program stub({"FAKECUDA_SCHED=lazy"}, [](const Pipe& pipe) { serve(pipe, false); });
  Program server({"FAKECUDA_SCHED=lazy"}, [](const Pipe& pipe) { EXPECT_GT(ask(pipe), 0); });
  {
    const Relay relay(server, stub);
  }
  EXPECT_EQ(server.join(), 0);
  EXPECT_EQ(stub.join(), 0);
  EXPECT_NE(stub.reports().find("unordered access"), std::string::npos);
}

TEST_P(FakeExchange, ThreadsShareOneDriver) {
  run_program({"FAKECUDA_SCHED=" + GetParam(), "FAKECUDA_DELAY_US=50"}, [] {
    const CUcontext context = use_device();
    std::vector<std::thread> threads;
    for (unsigned char t = 1; t <= 4; ++t)
      threads.emplace_back([context, t] {
        ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
        const CUstream first = make_stream(), second = make_stream();
        CUevent event = nullptr;
        ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
        for (int i = 0; i < 20; ++i) {
          CUdeviceptr a = 0, b = 0;
          ASSERT_EQ(cuMemAlloc(&a, 512), CUDA_SUCCESS);
          ASSERT_EQ(cuMemAlloc(&b, 512), CUDA_SUCCESS);
          ASSERT_EQ(cuMemsetD8Async(a, t, 512, first), CUDA_SUCCESS);
          ASSERT_EQ(cuEventRecord(event, first), CUDA_SUCCESS);
          ASSERT_EQ(cuStreamWaitEvent(second, event, 0), CUDA_SUCCESS);
          ASSERT_EQ(cuMemcpyDtoDAsync(b, a, 512, second), CUDA_SUCCESS);
          std::array<unsigned char, 512> seen{};
          ASSERT_EQ(cuMemcpyDtoHAsync(seen.data(), b, 512, second), CUDA_SUCCESS);
          EXPECT_EQ(seen[511], t);
          ASSERT_EQ(cuMemFree(a), CUDA_SUCCESS);
          ASSERT_EQ(cuMemFree(b), CUDA_SUCCESS);
        }
      });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(reports_here(), "");
  });
}

}  // namespace
}  // namespace fakecuda_test
