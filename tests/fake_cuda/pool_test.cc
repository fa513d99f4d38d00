#include "program.h"

#include <unistd.h>

#include <cstdint>
#include <vector>

namespace fakecuda_test {
namespace {

CUmemPoolProps pool_properties(CUmemAllocationHandleType type) {
  CUmemPoolProps properties{};
  properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.handleTypes = type;
  properties.location = on_device();
  return properties;
}

unsigned char first_byte(CUdeviceptr memory) {
  unsigned char byte = 0;
  EXPECT_EQ(cuMemcpyDtoH(&byte, memory, 1), CUDA_SUCCESS);
  return byte;
}

TEST(FakePool, MemoryIsFreedInTheOrderOfItsStream) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    CUstream stream = nullptr;
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocAsync(&memory, 100, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8Async(memory, 4, 100, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(memory, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuMemsetD8Async(memory, 4, 100, stream), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFreeAsync(memory, stream), CUDA_ERROR_INVALID_VALUE);
    fakecuda_live live{};
    fakecuda_get_live(&live);
    EXPECT_EQ(live.pooled, 1U);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    fakecuda_get_live(&live);
    EXPECT_EQ(live.pooled, 0U);
  });
}

TEST(FakePool, EachWayOfFreeingTakesBothKindsOfMemory) {
  run_program({}, [] {
    use_device();
    CUdeviceptr pooled = 0, plain = 0;
    ASSERT_EQ(cuMemAllocAsync(&pooled, 100, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc(&plain, 100), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree(pooled), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeAsync(plain, nullptr), CUDA_SUCCESS);
    fakecuda_live live{};
    fakecuda_get_live(&live);
    EXPECT_EQ(live.pooled + live.allocations, 0U);
  });
}

TEST(FakePool, APoolAndItsPointersGoToAnotherProcess) {
  Program owner({}, [](const Pipe& pipe) {
    use_device();
    const auto properties = pool_properties(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    CUmemoryPool pool = nullptr;
    CUdeviceptr memory = 0;
    CUmemPoolPtrExportData data{};
    int fd = -1;
    ASSERT_EQ(cuMemPoolCreate(&pool, &properties), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocFromPoolAsync(&memory, 100, pool, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8Async(memory, 6, 100, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuMemPoolExportPointer(&data, memory),
              CUDA_ERROR_INVALID_VALUE);  // the pool comes first
    ASSERT_EQ(
        cuMemPoolExportToShareableHandle(&fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_SUCCESS);
    ASSERT_EQ(cuMemPoolExportPointer(&data, memory), CUDA_SUCCESS);
    pipe.send_fd(fd);
    pipe.send(data);
    pipe.receive<char>();
  });
  const int fd = owner.pipe().receive_fd();
  auto data = owner.pipe().receive<CUmemPoolPtrExportData>();
  run_program({}, [&] {
    use_device();
    CUmemoryPool pool = nullptr;
    CUdeviceptr memory = 0, other = 0;
    auto* source = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
    ASSERT_EQ(cuMemPoolImportFromShareableHandle(&pool, source,
                                                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
              CUDA_SUCCESS);
    ASSERT_EQ(cuMemPoolImportPointer(&memory, pool, &data), CUDA_SUCCESS);
    EXPECT_EQ(first_byte(memory), 6);
    EXPECT_EQ(cuMemAllocFromPoolAsync(&other, 100, pool, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFree(memory), CUDA_SUCCESS);
  });
  ::close(fd);
}

TEST(FakePool, TheDefaultPoolIsNotExported) {
  run_program({}, [] {
    use_device();
    CUmemoryPool pool = nullptr;
    int fd = -1;
    ASSERT_EQ(cuDeviceGetDefaultMemPool(&pool, 0), CUDA_SUCCESS);
    EXPECT_EQ(
        cuMemPoolExportToShareableHandle(&fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST(FakePool, AnotherDeviceReachesItOnlyWhenItIsLetIn) {
  for (const bool let_in : {false, true})
    run_program({}, [let_in] {
      use_device(0);
      const auto properties = pool_properties(CU_MEM_HANDLE_TYPE_NONE);
      CUmemoryPool pool = nullptr;
      CUdeviceptr memory = 0;
      ASSERT_EQ(cuMemPoolCreate(&pool, &properties), CUDA_SUCCESS);
      ASSERT_EQ(cuMemAllocFromPoolAsync(&memory, 100, pool, nullptr), CUDA_SUCCESS);
      ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      const CUmemAccessDesc access{on_device(1), CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
      if (let_in) {
        ASSERT_EQ(cuMemPoolSetAccess(pool, &access, 1), CUDA_SUCCESS);
      }
      use_device(1);
      ASSERT_EQ(cuMemsetD8Async(memory, 1, 100, nullptr), CUDA_SUCCESS);
      EXPECT_EQ(cuCtxSynchronize(), let_in ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}

}  // namespace
}  // namespace fakecuda_test
