#include "program.h"

#include <array>
#include <cstring>
#include <vector>

namespace fakecuda_test {
namespace {

std::vector<unsigned char> read(CUdeviceptr from, std::size_t size) {
  std::vector<unsigned char> bytes(size);
  EXPECT_EQ(cuMemcpyDtoH(bytes.data(), from, size), CUDA_SUCCESS);
  return bytes;
}

TEST(FakeMemory, CopiesThereAndBackGiveTheSameBytes) {
  run_program({}, [] {
    use_device();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 1000), CUDA_SUCCESS);
    std::vector<unsigned char> bytes(1000);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i % 251);
    ASSERT_EQ(cuMemcpyHtoD(memory, bytes.data(), bytes.size()), CUDA_SUCCESS);
    EXPECT_EQ(read(memory, bytes.size()), bytes);
    EXPECT_EQ(cuMemFree(memory), CUDA_SUCCESS);
  });
}

TEST(FakeMemory, IsFilledWithRubbishAtFirst) {
  run_program({}, [] {
    use_device();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 64), CUDA_SUCCESS);
    EXPECT_EQ(read(memory, 64), std::vector<unsigned char>(64, 0xa5));
  });
}

TEST(FakeMemory, SmallAllocationsShareABlockAndAreAlignedTo512Bytes) {
  run_program({}, [] {
    use_device();
    CUdeviceptr first = 0, second = 0;
    ASSERT_EQ(cuMemAlloc(&first, 100), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc(&second, 100), CUDA_SUCCESS);
    EXPECT_EQ(second - first, 512U);
  });
}

TEST(FakeMemory, AHostThreadThatTouchesADeviceAddressDies) {
  Program program({}, [](const Pipe&) {
    use_device();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 64), CUDA_SUCCESS);
    *reinterpret_cast<volatile char*>(memory) = 1;
  });
  EXPECT_NE(program.join(), 0);
}

TEST(FakeMemory, AddressesDifferBetweenProcesses) {
  const auto body = [](const Pipe& pipe) {
    use_device();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 64), CUDA_SUCCESS);
    pipe.send(memory);
  };
  Program first({}, body), second({}, body);
  EXPECT_NE(first.pipe().receive<CUdeviceptr>(), second.pipe().receive<CUdeviceptr>());
  EXPECT_EQ(first.join(), 0);
  EXPECT_EQ(second.join(), 0);
}

TEST(FakeMemory, AnAddressComesAgainAfterAFreeWithAnotherBufferId) {
  run_program({}, [] {
    use_device();
    CUdeviceptr first = 0, second = 0;
    std::uint64_t first_id = 0, second_id = 0;
    ASSERT_EQ(cuMemAlloc(&first, 4 << 20), CUDA_SUCCESS);
    ASSERT_EQ(cuPointerGetAttribute(&first_id, CU_POINTER_ATTRIBUTE_BUFFER_ID, first),
              CUDA_SUCCESS);
    ASSERT_EQ(cuMemFree(first), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc(&second, 4 << 20), CUDA_SUCCESS);
    ASSERT_EQ(cuPointerGetAttribute(&second_id, CU_POINTER_ATTRIBUTE_BUFFER_ID, second),
              CUDA_SUCCESS);
    EXPECT_EQ(first, second);
    EXPECT_NE(first_id, second_id);
  });
}

TEST(FakeMemory, NothingAndTooMuchAreRefused) {
  run_program({"FAKECUDA_MEMORY=8388608"}, [] {
    use_device();
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc(&memory, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAlloc(&memory, 16 << 20), CUDA_ERROR_OUT_OF_MEMORY);
  });
}

TEST(FakeMemory, TheQuotaOfADeviceCountsAllProcesses) {
  Program holder({"FAKECUDA_MEMORY=8388608"}, [](const Pipe& pipe) {
    use_device();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 6 << 20), CUDA_SUCCESS);
    pipe.send('y');
    pipe.receive<char>();
  });
  holder.pipe().receive<char>();
  run_program({"FAKECUDA_MEMORY=8388608"}, [] {
    use_device();
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc(&memory, 4 << 20), CUDA_ERROR_OUT_OF_MEMORY);
  });
  holder.kill();
  holder.join();
  run_program({"FAKECUDA_MEMORY=8388608"}, [] {
    use_device();
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc(&memory, 4 << 20), CUDA_SUCCESS);
  });
}

TEST(FakeMemory, AnAddressThatIsNoneIsRefusedAndAFreedOneToo) {
  run_program({}, [] {
    use_device();
    CUdeviceptr memory = 0;
    std::array<char, 8> bytes{};
    ASSERT_EQ(cuMemAlloc(&memory, 64), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyDtoH(bytes.data(), memory + 60, 8), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemFree(memory), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyDtoH(bytes.data(), memory, 8), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFree(memory), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST(FakeMemory, AStridedCopyGathersRows) {
  run_program({}, [] {
    use_device();
    CUdeviceptr from = 0, to = 0;
    ASSERT_EQ(cuMemAlloc(&from, 64), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc(&to, 64), CUDA_SUCCESS);
    std::array<unsigned char, 64> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i);
    ASSERT_EQ(cuMemcpyHtoD(from, bytes.data(), bytes.size()), CUDA_SUCCESS);
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.srcDevice = from;
    copy.dstDevice = to;
    copy.srcPitch = 8;
    copy.srcHeight = 4;
    copy.WidthInBytes = 2;
    copy.Height = 2;
    copy.Depth = 2;
    ASSERT_EQ(cuMemcpy3D(&copy), CUDA_SUCCESS);
    EXPECT_EQ(read(to, 8), (std::vector<unsigned char>{0, 1, 8, 9, 32, 33, 40, 41}));
  });
}

TEST(FakeMemory, OffsetsBeyondFourGigabytesAreWhole) {
  run_program({}, [] {
    use_device();
    constexpr std::size_t kFar = (std::size_t{9} << 29) + 7;
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, std::size_t{5} << 30), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8(memory + kFar, 1, 64), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8(memory + kFar - (std::size_t{4} << 30), 2, 64), CUDA_SUCCESS);
    EXPECT_EQ(read(memory + kFar, 64), std::vector<unsigned char>(64, 1));
  });
}

TEST(FakeMemory, PinnedMemoryIsKnownAndOrdinaryMemoryIsNot) {
  run_program({}, [] {
    use_device();
    void* pinned = nullptr;
    std::array<char, 64> ordinary{};
    unsigned type = 0;
    ASSERT_EQ(cuMemHostAlloc(&pinned, 64, 0), CUDA_SUCCESS);
    const auto address = reinterpret_cast<CUdeviceptr>(pinned);
    EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address),
              CUDA_SUCCESS);
    EXPECT_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_HOST));
    const auto other = reinterpret_cast<CUdeviceptr>(ordinary.data());
    EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, other),
              CUDA_ERROR_INVALID_VALUE);
    CUpointer_attribute attribute = CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    void* data = &type;
    EXPECT_EQ(cuPointerGetAttributes(1, &attribute, &data, other), CUDA_SUCCESS);
    EXPECT_EQ(type, 0U);
  });
}

TEST(FakeMemory, RegisteringTwiceIsRefused) {
  run_program({}, [] {
    use_device();
    std::vector<char> bytes(1 << 16);
    EXPECT_EQ(cuMemHostRegister(bytes.data(), bytes.size(), 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemHostRegister(bytes.data() + 8, 8, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    EXPECT_EQ(cuMemHostUnregister(bytes.data() + 8), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    EXPECT_EQ(cuMemHostUnregister(bytes.data()), CUDA_SUCCESS);
    EXPECT_EQ(cuMemHostUnregister(bytes.data()), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  });
}

}  // namespace
}  // namespace fakecuda_test
