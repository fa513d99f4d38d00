#include "program.h"

#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

namespace fakecuda_test {
namespace {

constexpr std::size_t kChunk = std::size_t{2} << 20;

struct Pair {
  CUdeviceptr memory = 0;
  CUstream first = nullptr, second = nullptr;
  CUevent event = nullptr;

  explicit Pair(unsigned flags = CU_STREAM_NON_BLOCKING) {
    EXPECT_EQ(cuMemAlloc(&memory, 4096), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamCreate(&first, flags), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamCreate(&second, flags), CUDA_SUCCESS);
    EXPECT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  }
};

void write(CUdeviceptr at, std::size_t size, CUstream stream) {
  EXPECT_EQ(cuMemsetD8Async(at, 1, size, stream), CUDA_SUCCESS);
}

// Reads on a stream, by a copy to other memory.
void read(CUdeviceptr at, std::size_t size, CUstream stream) {
  CUdeviceptr to = 0;
  EXPECT_EQ(cuMemAlloc(&to, size), CUDA_SUCCESS);
  EXPECT_EQ(cuMemcpyDtoDAsync(to, at, size, stream), CUDA_SUCCESS);
}

void expect_reports(bool any) {
  const std::string reports = reports_here();
  EXPECT_EQ(reports.find("unordered access") != std::string::npos, any) << reports;
}

TEST(FakeOrder, WhatNothingOrdersIsReportedUnderEveryScheduler) {
  for (const char* scheduler : {"eager", "lazy", "random:1"})
    run_program({std::string("FAKECUDA_SCHED=") + scheduler}, [] {
      use_device();
      const Pair pair;
      CUdeviceptr to = 0;
      EXPECT_EQ(cuMemAlloc(&to, 64), CUDA_SUCCESS);
      write(pair.memory, 64, pair.first);
      EXPECT_EQ(cuMemcpyDtoDAsync(to, pair.memory, 64, pair.second), CUDA_SUCCESS);
      expect_reports(true);
      EXPECT_NE(reports_here().find("read by copy on stream"), std::string::npos) << reports_here();
      EXPECT_NE(reports_here().find("write by memset on stream"), std::string::npos)
          << reports_here();
    });
}

TEST(FakeOrder, AnEventOrders) {
  run_program({}, [] {
    use_device();
    const Pair pair;
    write(pair.memory, 64, pair.first);
    ASSERT_EQ(cuEventRecord(pair.event, pair.first), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(pair.second, pair.event, 0), CUDA_SUCCESS);
    read(pair.memory, 64, pair.second);
    expect_reports(false);
  });
}

TEST(FakeOrder, AnEventDoesNotOrderWhatCameAfterItsRecord) {
  run_program({}, [] {
    use_device();
    const Pair pair;
    ASSERT_EQ(cuEventRecord(pair.event, pair.first), CUDA_SUCCESS);
    write(pair.memory, 64, pair.first);
    ASSERT_EQ(cuStreamWaitEvent(pair.second, pair.event, 0), CUDA_SUCCESS);
    write(pair.memory, 64, pair.second);
    expect_reports(true);
  });
}

TEST(FakeOrder, AnAnsweredQueryOrdersAndAnUnansweredOneDoesNot) {
  for (const bool answered : {true, false})
    run_program({"FAKECUDA_SCHED=lazy", "FAKECUDA_POLLS=2"}, [answered] {
      use_device();
      const Pair pair;
      write(pair.memory, 64, pair.first);
      ASSERT_EQ(cuEventRecord(pair.event, pair.first), CUDA_SUCCESS);
      ASSERT_EQ(cuEventQuery(pair.event), CUDA_ERROR_NOT_READY);
      if (answered) {
        ASSERT_EQ(cuEventQuery(pair.event), CUDA_SUCCESS);
      }
      write(pair.memory, 64, pair.second);
      expect_reports(!answered);
    });
}

TEST(FakeOrder, TwoReadersNeedNoOrderButAWriterAfterThemDoes) {
  run_program({}, [] {
    use_device();
    const Pair pair;
    CUdeviceptr a = 0, b = 0;
    ASSERT_EQ(cuMemAlloc(&a, 64), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc(&b, 64), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoDAsync(a, pair.memory, 64, pair.first), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoDAsync(b, pair.memory, 64, pair.second), CUDA_SUCCESS);
    expect_reports(false);
    write(pair.memory, 64, pair.second);
    expect_reports(true);
  });
}

TEST(FakeOrder, NeighboursInOnePieceAreNoConflict) {
  run_program({}, [] {
    use_device();
    const Pair pair;
    write(pair.memory, 64, pair.first);
    write(pair.memory + 64, 64, pair.second);
    expect_reports(false);
  });
}

TEST(FakeOrder, TheLegacyStreamOrdersBlockingStreams) {
  for (const unsigned flags : {0U, 1U})
    run_program({}, [flags] {
      use_device();
      const Pair pair(flags);
      write(pair.memory, 64, pair.first);
      write(pair.memory, 64, CU_STREAM_LEGACY);
      write(pair.memory, 64, pair.second);
      expect_reports(flags == CU_STREAM_NON_BLOCKING);
    });
}

TEST(FakeOrder, ASynchronisationOrdersForAllThreads) {
  run_program({}, [] {
    use_device();
    const Pair pair;
    write(pair.memory, 64, pair.first);
    ASSERT_EQ(cuStreamSynchronize(pair.first), CUDA_SUCCESS);
    write(pair.memory, 64, pair.second);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    write(pair.memory, 64, pair.first);
    expect_reports(false);
  });
}

TEST(FakeOrder, AHostFunctionTellsTheHost) {
  run_program({}, [] {
    use_device();
    static std::atomic<bool> told{false};
    const Pair pair;
    write(pair.memory, 64, pair.first);
    ASSERT_EQ(cuLaunchHostFunc(pair.first, [](void*) { told = true; }, nullptr), CUDA_SUCCESS);
    while (!told) std::this_thread::yield();
    write(pair.memory, 64, pair.second);
    expect_reports(false);
  });
}

// A writer sends memory and event; a reader waits for the event, or not.
TEST(FakeOrder, UnorderedAccessOfTwoProcessesIsReportedWithBoth) {
  for (const bool waits : {true, false}) {
    Program writer({}, [](const Pipe& pipe) {
      use_device();
      const Pair pair;
      CUevent event = nullptr;
      CUipcEventHandle event_handle{};
      CUipcMemHandle handle{};
      ASSERT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING),
                CUDA_SUCCESS);
      ASSERT_EQ(cuIpcGetEventHandle(&event_handle, event), CUDA_SUCCESS);
      ASSERT_EQ(cuIpcGetMemHandle(&handle, pair.memory), CUDA_SUCCESS);
      write(pair.memory, 64, pair.first);
      ASSERT_EQ(cuEventRecord(event, pair.first), CUDA_SUCCESS);
      pipe.send(handle);
      pipe.send(event_handle);
      pipe.receive<char>();
    });
    const auto handle = writer.pipe().receive<CUipcMemHandle>();
    const auto event_handle = writer.pipe().receive<CUipcEventHandle>();
    const std::string other = "process " + std::to_string(writer.pid());
    run_program({}, [&] {
      use_device();
      const Pair pair;
      CUdeviceptr memory = 0;
      CUevent event = nullptr;
      ASSERT_EQ(cuIpcOpenMemHandle(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                CUDA_SUCCESS);
      ASSERT_EQ(cuIpcOpenEventHandle(&event, event_handle), CUDA_SUCCESS);
      if (waits) {
        ASSERT_EQ(cuStreamWaitEvent(pair.first, event, 0), CUDA_SUCCESS);
      }
      write(memory, 64, pair.first);
      expect_reports(!waits);
      EXPECT_EQ(reports_here().find(other) != std::string::npos, !waits);
    });
  }
}

TEST(FakeOrder, WhatADeadProcessDidIsOver) {
  Program writer({"FAKECUDA_SCHED=lazy"}, [](const Pipe& pipe) {
    use_device();
    const auto properties = memory_properties();
    CUmemGenericAllocationHandle handle = 0;
    ASSERT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
    const CUdeviceptr address = map_whole(handle, kChunk);
    write(address, 64, nullptr);
    int fd = -1;
    ASSERT_EQ(
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_SUCCESS);
    pipe.send_fd(fd);
    pipe.receive<char>();
  });
  const int fd = writer.pipe().receive_fd();
  for (const bool dead : {false, true}) {
    if (dead) {
      writer.kill();
      writer.join();
    }
    run_program({}, [fd, dead] {
      use_device();
      CUmemGenericAllocationHandle handle = 0;
      auto* source = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
      ASSERT_EQ(
          cuMemImportFromShareableHandle(&handle, source, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
          CUDA_SUCCESS);
      const CUdeviceptr address = map_whole(handle, kChunk);
      read(address, 64, nullptr);
      expect_reports(!dead);
    });
  }
  ::close(fd);
}

TEST(FakeOrder, TheCheckCanBeTurnedOff) {
  run_program({"FAKECUDA_CHECK=0"}, [] {
    use_device();
    const Pair pair;
    write(pair.memory, 64, pair.first);
    write(pair.memory, 64, pair.second);
    expect_reports(false);
  });
}

}  // namespace
}  // namespace fakecuda_test
