// What hardware lets pass and the documentation doesn't, or only now and then.
#include "program.h"

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace fakecuda_test {
namespace {

constexpr std::size_t kChunk = std::size_t{2} << 20;

CUdeviceptr make_chunk() {
  const auto properties = memory_properties();
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
  return map_whole(handle, kChunk);
}

void expect_report(const char* words) {
  EXPECT_NE(reports_here().find(words), std::string::npos) << reports_here();
}

TEST(FakeStrictness, MemoryUnmappedUnderAnOperationIsReportedAndTheOperationFails) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const CUdeviceptr chunk = make_chunk();
    ASSERT_EQ(cuMemsetD8Async(chunk, 1, 64, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemUnmap(chunk, kChunk), CUDA_SUCCESS);
    expect_report("cuMemUnmap");
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  });
}

TEST(FakeStrictness, HostMemoryUnregisteredUnderACopyIsReported) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    std::vector<char> host(4096);
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 4096), CUDA_SUCCESS);
    ASSERT_EQ(cuMemHostRegister(host.data(), host.size(), 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyHtoDAsync(memory, host.data(), host.size(), nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemHostUnregister(host.data()), CUDA_SUCCESS);
    expect_report("cuMemHostUnregister");
  });
}

TEST(FakeStrictness, AnInteriorPointerIsNoBaseOfAHandle) {
  run_program({}, [] {
    use_device();
    CUdeviceptr memory = 0;
    CUipcMemHandle handle{};
    ASSERT_EQ(cuMemAlloc(&memory, 4096), CUDA_SUCCESS);
    ASSERT_EQ(cuIpcGetMemHandle(&handle, memory + 64), CUDA_SUCCESS);
    expect_report("is not the base");
  });
}

TEST(FakeStrictness, AccessIsPerDeviceAndNeedsPeersThatMay) {
  run_program({"FAKECUDA_P2P=1-0:0"}, [] {
    use_device(0);
    const CUdeviceptr chunk = make_chunk();
    const CUmemAccessDesc access{on_device(1), CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    EXPECT_EQ(cuMemSetAccess(chunk, kChunk, &access, 1), CUDA_ERROR_INVALID_DEVICE);
    use_device(1);
    ASSERT_EQ(cuMemsetD8Async(chunk, 1, 64, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  });
}

TEST(FakeStrictness, ReadOnlyAccessIsNoLeaveToWrite) {
  run_program({}, [] {
    use_device();
    const CUdeviceptr chunk = make_chunk();
    const CUmemAccessDesc access{on_device(), CU_MEM_ACCESS_FLAGS_PROT_READ};
    ASSERT_EQ(cuMemSetAccess(chunk, kChunk, &access, 1), CUDA_SUCCESS);
    unsigned char byte = 0;
    EXPECT_EQ(cuMemcpyDtoH(&byte, chunk, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyHtoD(chunk, &byte, 1), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemsetD8Async(chunk, 1, 64, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  });
}

TEST(FakeStrictness, AChunkIsMappedWholeAndOnce) {
  run_program({}, [] {
    use_device();
    const auto properties = memory_properties();
    CUmemGenericAllocationHandle handle = 0;
    CUdeviceptr address = 0;
    ASSERT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemCreate(&handle, kChunk + 1, &properties, 0), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemAddressReserve(&address, 2 * kChunk, 0, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemMap(address, kChunk / 2, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemMap(address, kChunk, 4096, handle, 0), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemMap(address + kChunk, kChunk, 0, handle, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemMap(address + kChunk, kChunk, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr base = 0;
    std::size_t size = 0;
    ASSERT_EQ(cuMemGetAddressRange(&base, &size, address + kChunk + 5), CUDA_SUCCESS);
    EXPECT_EQ(base, address + kChunk);  // of what is mapped, not of what is reserved
    ASSERT_EQ(
        cuPointerGetAttribute(&base, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address + kChunk + 5),
        CUDA_SUCCESS);
    EXPECT_EQ(base, address);
    EXPECT_EQ(cuMemUnmap(address + kChunk, kChunk / 2), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAddressFree(address, 2 * kChunk), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemUnmap(address + kChunk, kChunk), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAddressFree(address, 2 * kChunk), CUDA_SUCCESS);
    EXPECT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
    EXPECT_EQ(cuMemRelease(handle), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST(FakeStrictness, ACopyMaySpanChunks) {
  run_program({}, [] {
    use_device();
    const auto properties = memory_properties();
    CUdeviceptr address = 0;
    const CUmemAccessDesc access{on_device(), CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    ASSERT_EQ(cuMemAddressReserve(&address, 2 * kChunk, 0, 0, 0), CUDA_SUCCESS);
    for (const std::size_t offset : {std::size_t{0}, kChunk}) {
      CUmemGenericAllocationHandle handle = 0;
      ASSERT_EQ(cuMemCreate(&handle, kChunk, &properties, 0), CUDA_SUCCESS);
      ASSERT_EQ(cuMemMap(address + offset, kChunk, 0, handle, 0), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuMemSetAccess(address, 2 * kChunk, &access, 1), CUDA_SUCCESS);
    std::vector<unsigned char> bytes(1000), seen(1000);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i);
    ASSERT_EQ(cuMemcpyHtoD(address + kChunk - 500, bytes.data(), bytes.size()), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoH(seen.data(), address + kChunk - 500, seen.size()), CUDA_SUCCESS);
    EXPECT_EQ(seen, bytes);
  });
}

// Allocates, sends a handle, frees, allocates again at the same address, and sends that handle.
TEST(FakeStrictness, AnOldHandleThatIsStillOpenBlocksANewOneAtItsAddress) {
  Program owner({}, [](const Pipe& pipe) {
    use_device();
    CUdeviceptr memory = 0, again = 0;
    CUipcMemHandle handle{};
    ASSERT_EQ(cuMemAlloc(&memory, 2 * kChunk), CUDA_SUCCESS);
    ASSERT_EQ(cuIpcGetMemHandle(&handle, memory), CUDA_SUCCESS);
    pipe.send(handle);
    pipe.receive<char>();
    ASSERT_EQ(cuMemFree(memory), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc(&again, 2 * kChunk), CUDA_SUCCESS);
    ASSERT_EQ(again, memory);
    ASSERT_EQ(cuIpcGetMemHandle(&handle, again), CUDA_SUCCESS);
    pipe.send(handle);
    pipe.receive<char>();
  });
  Program user({}, [](const Pipe& pipe) {
    use_device();
    constexpr unsigned kFlags = CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS;
    CUdeviceptr old_memory = 0, memory = 0;
    ASSERT_EQ(cuIpcOpenMemHandle(&old_memory, pipe.receive<CUipcMemHandle>(), kFlags),
              CUDA_SUCCESS);
    pipe.send('o');
    const auto handle = pipe.receive<CUipcMemHandle>();
    EXPECT_EQ(cuIpcOpenMemHandle(&memory, handle, kFlags), CUDA_ERROR_ALREADY_MAPPED);
    EXPECT_EQ(cuIpcCloseMemHandle(old_memory), CUDA_SUCCESS);
    EXPECT_EQ(cuIpcOpenMemHandle(&memory, handle, kFlags), CUDA_SUCCESS);
  });
  user.pipe().send(owner.pipe().receive<CUipcMemHandle>());
  owner.pipe().send(user.pipe().receive<char>());
  user.pipe().send(owner.pipe().receive<CUipcMemHandle>());
  EXPECT_EQ(user.join(), 0);
}

TEST(FakeStrictness, AnErrorOfTheDeviceStaysUntilItsContextEnds) {
  run_program({}, [] {
    use_device();
    const CUdeviceptr chunk = make_chunk();
    const CUmemAccessDesc access{on_device(), CU_MEM_ACCESS_FLAGS_PROT_NONE};
    ASSERT_EQ(cuMemSetAccess(chunk, kChunk, &access, 1), CUDA_SUCCESS);
    CUevent event = nullptr;
    ASSERT_EQ(cuEventCreate(&event, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemsetD8Async(chunk, 1, 64, nullptr),
              CUDA_SUCCESS);  // tells of it at the next call
    EXPECT_EQ(cuEventRecord(event, nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc(&memory, 8), CUDA_ERROR_ILLEGAL_ADDRESS);
    const char* name = nullptr;
    EXPECT_EQ(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name), CUDA_SUCCESS);
    EXPECT_EQ(cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
  });
}

TEST(FakeStrictness, AnEventWhoseMakerHasDestroyedItIsNotUsedUnnoticed) {
  Program owner({}, [](const Pipe& pipe) {
    use_device();
    CUevent event = nullptr;
    CUipcEventHandle handle{};
    ASSERT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    ASSERT_EQ(cuIpcGetEventHandle(&handle, event), CUDA_SUCCESS);
    pipe.send(handle);
    pipe.receive<char>();
    ASSERT_EQ(cuEventDestroy(event), CUDA_SUCCESS);
    pipe.send('d');
    pipe.receive<char>();
  });
  Program user({}, [](const Pipe& pipe) {
    use_device();
    CUevent event = nullptr;
    ASSERT_EQ(cuIpcOpenEventHandle(&event, pipe.receive<CUipcEventHandle>()), CUDA_SUCCESS);
    pipe.send('o');
    pipe.receive<char>();
    EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
    expect_report("has destroyed it");
  });
  user.pipe().send(owner.pipe().receive<CUipcEventHandle>());
  owner.pipe().send(user.pipe().receive<char>());
  user.pipe().send(owner.pipe().receive<char>());
  EXPECT_EQ(user.join(), 0);
}

}  // namespace
}  // namespace fakecuda_test
