#include "program.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

namespace fakecuda_test {
namespace {

TEST(FakeContext, WithoutFakecudaInTheEnvironmentThereIsNoDevice) {
  run_program({"FAKECUDA="}, [] {
    EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    int count = 0;
    EXPECT_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(fakecuda_version(), 1);
  });
}

TEST(FakeContext, TheVersionIsKnownBeforeInit) {
  run_program({"FAKECUDA_VERSION=12040"}, [] {
    int version = 0;
    EXPECT_EQ(cuDriverGetVersion(&version), CUDA_SUCCESS);
    EXPECT_EQ(version, 12040);
  });
}

TEST(FakeContext, AForkedChildIsNotInitialised) {
  run_program({}, [] {
    use_device();
    const pid_t child = ::fork();
    if (child == 0) {
      int count = 0;
      const bool refused = cuInit(0) == CUDA_ERROR_NOT_INITIALIZED &&
                           cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED;
      ::_exit(refused ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  });
}

TEST(FakeContext, AThreadHasNoContextUntilOneIsMadeCurrent) {
  run_program({}, [] {
    const CUcontext context = use_device();
    std::thread([context] {
      CUdeviceptr memory = 0;
      EXPECT_EQ(cuMemAlloc(&memory, 8), CUDA_ERROR_INVALID_CONTEXT);
      EXPECT_EQ(cuCtxPushCurrent(context), CUDA_SUCCESS);
      EXPECT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
      CUcontext popped = nullptr;
      EXPECT_EQ(cuCtxPopCurrent(&popped), CUDA_SUCCESS);
      EXPECT_EQ(popped, context);
      EXPECT_EQ(cuCtxPopCurrent(&popped), CUDA_ERROR_INVALID_CONTEXT);
    }).join();
    EXPECT_EQ(reports_here(), "");
  });
}

TEST(FakeContext, AThreadThatEndsWithAContextPushedIsReported) {
  run_program({}, [] {
    const CUcontext context = use_device();
    std::thread([context] { EXPECT_EQ(cuCtxPushCurrent(context), CUDA_SUCCESS); }).join();
    EXPECT_NE(reports_here().find("pushed"), std::string::npos);
  });
}

TEST(FakeContext, ThePrimaryContextIsOneAndLastsUntilItsLastRelease) {
  run_program({}, [] {
    const CUcontext first = use_device();
    CUcontext second = nullptr;
    unsigned flags = 0;
    int active = 0;
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&second, 0), CUDA_SUCCESS);
    EXPECT_EQ(first, second);
    CUdeviceptr memory = 0;
    CUstream stream = nullptr;
    ASSERT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamCreate(&stream, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamQuery(stream), CUDA_SUCCESS);
    EXPECT_EQ(cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
    EXPECT_EQ(cuDevicePrimaryCtxGetState(0, &flags, &active), CUDA_SUCCESS);
    EXPECT_EQ(active, 0);
    EXPECT_EQ(cuMemFree(memory), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuDevicePrimaryCtxRelease(0), CUDA_ERROR_INVALID_CONTEXT);
  });
}

TEST(FakeContext, VisibleDevicesAreChosenByIndexAndByUuid) {
  run_program({"FAKECUDA_DEVICES=4", "CUDA_VISIBLE_DEVICES=2,GPU-fbceb00c,9,0"}, [] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    int count = 0;
    ASSERT_EQ(cuDeviceGetCount(&count), CUDA_SUCCESS);
    EXPECT_EQ(count, 2);  // 9 is none, and what follows it isn't looked at
    CUuuid first{}, second{};
    ASSERT_EQ(cuDeviceGetUuid(&first, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuDeviceGetUuid(&second, 1), CUDA_SUCCESS);
    EXPECT_EQ(first.bytes[15], 2);
    EXPECT_EQ(second.bytes[15], 1);
  });
  run_program({"CUDA_VISIBLE_DEVICES="}, [] { EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE); });
}

TEST(FakeContext, PeerAccessIsWhatTheMatrixSays) {
  run_program({"FAKECUDA_DEVICES=3", "FAKECUDA_P2P=0-1:0,1-0:0"}, [] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    int can = -1;
    EXPECT_EQ(cuDeviceCanAccessPeer(&can, 0, 1), CUDA_SUCCESS);
    EXPECT_EQ(can, 0);
    EXPECT_EQ(cuDeviceCanAccessPeer(&can, 0, 2), CUDA_SUCCESS);
    EXPECT_EQ(can, 1);
  });
}

CUresult share(CUmemAllocationHandleType type) {
  const auto properties = memory_properties(type);
  CUmemGenericAllocationHandle handle = 0;
  return cuMemCreate(&handle, std::size_t{2} << 20, &properties, 0);
}

int attribute(CUdevice_attribute which) {
  int value = -1;
  EXPECT_EQ(cuDeviceGetAttribute(&value, which, 0), CUDA_SUCCESS);
  return value;
}

TEST(FakeContext, AProfileSaysWhatWorksAndWhatIsOnlyClaimed) {
  constexpr auto kFd = CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED;
  constexpr auto kEvents = CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED;
  run_program({"FAKECUDA_PROFILE=attributes_lie"}, [] {
    use_device();
    EXPECT_EQ(attribute(kFd), 1);
    EXPECT_EQ(share(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(share(CU_MEM_HANDLE_TYPE_NONE), CUDA_SUCCESS);
  });
  run_program({"FAKECUDA_PROFILE=events_only"}, [] {
    use_device();
    EXPECT_EQ(attribute(kFd), 0);
    EXPECT_EQ(attribute(kEvents), 1);
  });
  run_program({"FAKECUDA_PROFILE=no_ipc"}, [] {
    use_device();
    EXPECT_EQ(attribute(kEvents), 0);
  });
  run_program({"FAKECUDA_PROFILE=no_driver"}, [] { EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE); });
  run_program({"FAKECUDA_PROFILE=toolkit_stub"}, [] {
    int number = 0;
    EXPECT_EQ(cuInit(0), CUDA_ERROR_STUB_LIBRARY);
    EXPECT_EQ(cuDriverGetVersion(&number), CUDA_ERROR_STUB_LIBRARY);
    EXPECT_EQ(cuDeviceGetCount(&number), CUDA_ERROR_STUB_LIBRARY);
  });
  run_program({"FAKECUDA_PROFILE=full", "FAKECUDA_ATTR=0:103=0"}, [] {
    use_device();
    EXPECT_EQ(attribute(kFd), 0);
  });
}

TEST(FakeContext, AFunctionFailsAtTheCallThatWasNamed) {
  run_program({"FAKECUDA_FAIL=cuMemAlloc_v2:2:2,cuStream*:every=2:999"}, [] {
    use_device();
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc(&memory, 8), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(fakecuda_fail("nonsense"), -1);
    EXPECT_EQ(fakecuda_fail(nullptr), 0);
    EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    EXPECT_EQ(fakecuda_fail("cuMemcpyHtoD_v2:1:corrupt"), 0);
    const char right = 1;
    char wrong = 0;
    EXPECT_EQ(cuMemcpyHtoD(memory, &right, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyDtoH(&wrong, memory, 1), CUDA_SUCCESS);
    EXPECT_NE(wrong, right);
  });
}

TEST(FakeContext, CountersOfAKilledProcessCanBeRead) {
  Program program({}, [](const Pipe& pipe) {
    use_device();
    CUdeviceptr memory = 0;
    const char byte = 1;
    ASSERT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyHtoD(memory, &byte, 1), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    pipe.send('d');
    pipe.receive<char>();
  });
  program.pipe().receive<char>();
  program.kill();
  program.join();
  const auto counters = program.counters();
  EXPECT_EQ(counters.copies_h2d_pageable, 1U);
  EXPECT_EQ(counters.bytes_h2d_pageable, 1U);
  EXPECT_EQ(counters.context_syncs, 1U);
  EXPECT_EQ(counters.contexts_created, 1U);
  EXPECT_EQ(counters.device_bytes, std::uint64_t{2} << 20);
  EXPECT_EQ(fakecuda_read_calls(program.state_file().c_str(), "cuMemAlloc_v2"), 1U);
}

void* look_up(const char* name, int version, cuuint64_t flags,
              CUdriverProcAddressQueryResult* status) {
  void* found = nullptr;
  EXPECT_EQ(cuGetProcAddress_v2(name, &found, version, flags, status), CUDA_SUCCESS);
  return found;
}

TEST(FakeContext, ProcAddressesAreChosenByVersionAndKindOfDefaultStream) {
  run_program({}, [] {
    CUdriverProcAddressQueryResult status{};
    EXPECT_EQ(look_up("cuMemAlloc", 12000, 0, &status), ::dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"));
    EXPECT_EQ(look_up("cuCtxCreate", 11040, 0, &status), ::dlsym(RTLD_DEFAULT, "cuCtxCreate_v3"));
    EXPECT_EQ(look_up("cuStreamSynchronize", 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM,
                      &status),
              ::dlsym(RTLD_DEFAULT, "cuStreamSynchronize_ptsz"));
    EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SUCCESS);
    EXPECT_EQ(look_up("cuEventElapsedTime", 1000, 0, &status), nullptr);
    EXPECT_EQ(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    EXPECT_EQ(look_up("cuNoSuchThing", 13000, 0, &status), nullptr);
    EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  });
}

}  // namespace
}  // namespace fakecuda_test
