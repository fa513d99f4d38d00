#include "program.h"

#include <unistd.h>

#include <array>
#include <cstring>

namespace fakecuda_test {
namespace {

constexpr std::size_t kChunk = std::size_t{2} << 20;

int value_at(CUdeviceptr address) {
  int value = 0;
  EXPECT_EQ(cuMemcpyDtoH(&value, address, sizeof(value)), CUDA_SUCCESS);
  return value;
}

TEST(FakeIpc, AChunkPassedAsADescriptorIsTheSameMemoryAndOutlivesItsMaker) {
  Program maker({}, [](const Pipe& pipe) {
    use_device();
    CUmemGenericAllocationHandle handle = 0;
    const auto properties = memory_properties();
    ASSERT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
    const CUdeviceptr address = map_whole(handle, kChunk);
    const int value = 42;
    ASSERT_EQ(cuMemcpyHtoD(address, &value, sizeof(value)), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    int fd = -1;
    ASSERT_EQ(
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_SUCCESS);
    pipe.send_fd(fd);
    pipe.receive<char>();
  });
  const int fd = maker.pipe().receive_fd();
  ASSERT_GE(fd, 0);
  maker.kill();
  maker.join();
  run_program({}, [fd] {
    use_device();
    CUmemGenericAllocationHandle handle = 0;
    auto* source = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
    ASSERT_EQ(
        cuMemImportFromShareableHandle(&handle, source, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        CUDA_SUCCESS);
    ::close(fd);
    EXPECT_EQ(value_at(map_whole(handle, kChunk)), 42);
  });
  ::close(fd);
}

TEST(FakeIpc, MappedMemoryWithoutAccessIsAnIllegalAddressForGood) {
  run_program({}, [] {
    use_device();
    CUmemGenericAllocationHandle handle = 0;
    const auto properties = memory_properties();
    ASSERT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
    const CUdeviceptr address = map_whole(handle, kChunk, false);
    EXPECT_EQ(cuMemsetD8Async(address, 0, 8, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUdeviceptr other = 0;
    EXPECT_EQ(cuMemAlloc(&other, 8), CUDA_ERROR_ILLEGAL_ADDRESS);
  });
}

TEST(FakeIpc, OnlyMemoryMadeForItIsExported) {
  run_program({}, [] {
    use_device();
    const auto properties = memory_properties(CU_MEM_HANDLE_TYPE_NONE);
    CUmemGenericAllocationHandle handle = 0;
    int fd = -1;
    ASSERT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
    EXPECT_EQ(
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_ERROR_INVALID_VALUE);
    CUipcMemHandle legacy{};
    EXPECT_EQ(cuIpcGetMemHandle(&legacy, map_whole(handle, kChunk)), CUDA_ERROR_INVALID_VALUE);
  });
}

// Allocates, sends the legacy handle, and frees when it is told to.
void exporter(const Pipe& pipe) {
  use_device();
  CUdeviceptr memory = 0;
  CUipcMemHandle handle{};
  ASSERT_EQ(cuMemAlloc(&memory, 100), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAlloc(&memory, 100), CUDA_SUCCESS);  // not at the beginning of its block
  ASSERT_EQ(cuMemsetD32(memory, 7, 25), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  ASSERT_EQ(cuIpcGetMemHandle(&handle, memory), CUDA_SUCCESS);
  EXPECT_EQ(cuIpcOpenMemHandle(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
            CUDA_ERROR_INVALID_CONTEXT);
  pipe.send(handle);
  pipe.receive<char>();
  ASSERT_EQ(cuMemFree(memory), CUDA_SUCCESS);
  pipe.send('f');
  pipe.receive<char>();
}

TEST(FakeIpc, ALegacyHandleOpensTheSameMemoryAndTwiceAtTheSamePlace) {
  Program owner({}, exporter);
  const auto handle = owner.pipe().receive<CUipcMemHandle>();
  run_program({}, [&handle] {
    use_device();
    CUdeviceptr first = 0, second = 0;
    ASSERT_EQ(cuIpcOpenMemHandle(&first, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), CUDA_SUCCESS);
    ASSERT_EQ(cuIpcOpenMemHandle(&second, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
              CUDA_SUCCESS);
    EXPECT_EQ(first, second);
    EXPECT_EQ(value_at(first), 7);
    CUipcMemHandle again{};
    EXPECT_EQ(cuIpcGetMemHandle(&again, first), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuIpcCloseMemHandle(first), CUDA_SUCCESS);
    EXPECT_EQ(value_at(first), 7);
    EXPECT_EQ(cuIpcCloseMemHandle(first), CUDA_SUCCESS);
    EXPECT_EQ(cuIpcCloseMemHandle(first), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST(FakeIpc, MemoryFreedWhileAnotherProcessHasItOpenIsReported) {
  Program owner({}, exporter);
  const auto handle = owner.pipe().receive<CUipcMemHandle>();
  Program user({}, [&handle](const Pipe& pipe) {
    use_device();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuIpcOpenMemHandle(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
              CUDA_SUCCESS);
    pipe.send('o');
    pipe.receive<char>();
  });
  user.pipe().receive<char>();
  owner.pipe().send('f');
  owner.pipe().receive<char>();
  EXPECT_NE(owner.reports().find("cuMemFree"), std::string::npos) << owner.reports();
}

TEST(FakeIpc, AHandleOfADeadProcessIsRefused) {
  Program owner({}, exporter);
  const auto handle = owner.pipe().receive<CUipcMemHandle>();
  owner.kill();
  owner.join();
  run_program({}, [&handle] {
    use_device();
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuIpcOpenMemHandle(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
              CUDA_ERROR_INVALID_HANDLE);
  });
}

// Makes an interprocess event, sends it, records it when told to.
void event_owner(const Pipe& pipe) {
  use_device();
  CUevent event = nullptr;
  CUipcEventHandle handle{};
  EXPECT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  ASSERT_EQ(cuIpcGetEventHandle(&handle, event), CUDA_SUCCESS);
  CUevent own = nullptr;
  EXPECT_EQ(cuIpcOpenEventHandle(&own, handle), CUDA_ERROR_INVALID_CONTEXT);
  CUstream stream = nullptr;
  ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(event, stream), CUDA_SUCCESS);
  pipe.send(handle);
  pipe.receive<char>();
}

TEST(FakeIpc, AnEventOfAnotherProcessIsForcedByWhoWaitsForIt) {
  for (const char* scheduler : {"eager", "lazy", "random:7"}) {
    const std::string variable = std::string("FAKECUDA_SCHED=") + scheduler;
    Program owner({variable}, event_owner);
    const auto handle = owner.pipe().receive<CUipcEventHandle>();
    run_program({variable}, [&handle] {
      use_device();
      CUevent event = nullptr;
      ASSERT_EQ(cuIpcOpenEventHandle(&event, handle), CUDA_SUCCESS);
      CUstream stream = nullptr;
      ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamWaitEvent(stream, event, 0), CUDA_SUCCESS);
      EXPECT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
      EXPECT_EQ(cuEventQuery(event), CUDA_SUCCESS);
    });
  }
}

TEST(FakeIpc, WhatADeadProcessHadRecordedNeverCompletesUnlessAskedFor) {
  for (const bool completes : {false, true}) {
    Program owner({"FAKECUDA_SCHED=lazy"}, event_owner);
    const auto handle = owner.pipe().receive<CUipcEventHandle>();
    Program user({completes ? "FAKECUDA_DEATH=complete" : "FAKECUDA_DEATH="},
                 [&](const Pipe& pipe) {
                   use_device();
                   CUevent event = nullptr;
                   ASSERT_EQ(cuIpcOpenEventHandle(&event, handle), CUDA_SUCCESS);
                   pipe.send('o');
                   pipe.receive<char>();
                   EXPECT_EQ(cuEventQuery(event), completes ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
                 });
    user.pipe().receive<char>();
    owner.kill();
    owner.join();
    user.pipe().send('q');
    EXPECT_EQ(user.join(), 0);
  }
}

}  // namespace
}  // namespace fakecuda_test
