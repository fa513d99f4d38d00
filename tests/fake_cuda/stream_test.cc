#include "program.h"

#include <array>
#include <atomic>
#include <string>
#include <thread>

namespace fakecuda_test {
namespace {

CUstream make_stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, flags), CUDA_SUCCESS);
  return stream;
}

CUevent make_event() {
  CUevent event = nullptr;
  EXPECT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  return event;
}

// Two small allocations and pinned memory to look at the second through.
struct Memory {
  CUdeviceptr a = 0, b = 0;
  volatile unsigned char* seen = nullptr;

  Memory() {
    void* pinned = nullptr;
    EXPECT_EQ(cuMemAlloc(&a, 64), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc(&b, 64), CUDA_SUCCESS);
    EXPECT_EQ(cuMemHostAlloc(&pinned, 64, 0), CUDA_SUCCESS);
    seen = static_cast<unsigned char*>(pinned);
  }
  CUresult look(CUstream stream) const {
    return cuMemcpyDtoHAsync(const_cast<unsigned char*>(seen), b, 64, stream);
  }
};

// Fills a on one stream and copies it to b on another, with or without a wait between; what b has
// then.
int hand_over(bool with_wait) {
  Memory memory;
  const CUstream producer = make_stream(), consumer = make_stream();
  const CUevent ready = make_event();
  EXPECT_EQ(cuMemsetD8Async(memory.a, 9, 64, producer), CUDA_SUCCESS);
  EXPECT_EQ(cuEventRecord(ready, producer), CUDA_SUCCESS);
  if (with_wait) {
    EXPECT_EQ(cuStreamWaitEvent(consumer, ready, 0), CUDA_SUCCESS);
  }
  EXPECT_EQ(cuMemcpyDtoDAsync(memory.b, memory.a, 64, consumer), CUDA_SUCCESS);
  EXPECT_EQ(memory.look(consumer), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(consumer), CUDA_SUCCESS);
  return memory.seen[0];
}

TEST(FakeStream, AWaitOrdersTwoStreamsUnderEveryScheduler) {
  for (const char* scheduler : {"eager", "lazy", "random:1", "random:2"})
    run_program({std::string("FAKECUDA_SCHED=") + scheduler}, [] {
      use_device();
      EXPECT_EQ(hand_over(true), 9);
    });
}

TEST(FakeStream, AMissingWaitIsAWrongResultUnderTheLazySchedulerEveryTime) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    for (int i = 0; i < 10; ++i) EXPECT_NE(hand_over(false), 9);
  });
}

TEST(FakeStream, TheLazySchedulerRunsNothingUntilItMust) {
  run_program({"FAKECUDA_SCHED=lazy", "FAKECUDA_POLLS=3"}, [] {
    use_device();
    const Memory memory;
    const CUstream stream = make_stream();
    const CUevent event = make_event();
    ASSERT_EQ(cuMemsetD8Async(memory.a, 9, 64, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, stream), CUDA_SUCCESS);
    EXPECT_EQ(fakecuda_pending(), 2U);
    EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuEventQuery(event), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8Async(memory.a, 9, 64, stream), CUDA_SUCCESS);
    EXPECT_EQ(fakecuda_pending(), 1U);
    EXPECT_EQ(fakecuda_advance(), 0U);
    EXPECT_EQ(cuStreamQuery(stream), CUDA_SUCCESS);
  });
}

TEST(FakeStream, AWaitForAnEventThatWasNeverRecordedIsNone) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const CUstream stream = make_stream();
    const CUevent event = make_event();
    EXPECT_EQ(cuEventQuery(event), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(stream, event, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamQuery(stream), CUDA_SUCCESS);
  });
}

TEST(FakeStream, AWaitMeansTheRecordAtItsTimeNotALaterOne) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const Memory memory;
    const CUstream producer = make_stream(), later = make_stream(), consumer = make_stream();
    const CUevent event = make_event();
    ASSERT_EQ(cuEventRecord(event, producer), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(consumer, event, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8Async(memory.a, 1, 64, later), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, later), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(consumer), CUDA_SUCCESS);
    EXPECT_EQ(fakecuda_pending(), 2U);  // the fill and the second record
  });
}

TEST(FakeStream, TheLegacyStreamWaitsForBlockingStreamsAndTheyForIt) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const Memory memory;
    const CUstream blocking = make_stream(CU_STREAM_DEFAULT);
    ASSERT_EQ(cuMemsetD8Async(memory.a, 5, 64, blocking), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoDAsync(memory.b, memory.a, 64, CU_STREAM_LEGACY), CUDA_SUCCESS);
    ASSERT_EQ(memory.look(blocking), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(blocking), CUDA_SUCCESS);
    EXPECT_EQ(memory.seen[0], 5);
  });
}

TEST(FakeStream, ANonBlockingStreamIsNotOrderedWithTheLegacyStream) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const Memory memory;
    const CUstream free = make_stream();
    ASSERT_EQ(cuMemsetD8Async(memory.b, 5, 64, CU_STREAM_LEGACY), CUDA_SUCCESS);
    ASSERT_EQ(memory.look(free), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(free), CUDA_SUCCESS);
    EXPECT_NE(memory.seen[0], 5);
  });
}

TEST(FakeStream, EachThreadHasAPerThreadStreamOfItsOwn) {
  run_program({}, [] {
    const CUcontext context = use_device();
    unsigned long long here = 0, again = 0, there = 0;
    ASSERT_EQ(cuStreamGetId(CU_STREAM_PER_THREAD, &here), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamGetId(CU_STREAM_PER_THREAD, &again), CUDA_SUCCESS);
    std::thread([&] {
      ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamGetId(CU_STREAM_PER_THREAD, &there), CUDA_SUCCESS);
    }).join();
    EXPECT_EQ(here, again);
    EXPECT_NE(here, there);
  });
}

TEST(FakeStream, PageableMemoryIsStagedBeforeTheCallReturns) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const Memory memory;
    const CUstream stream = make_stream();
    std::array<unsigned char, 64> bytes{};
    bytes.fill(3);
    ASSERT_EQ(cuMemcpyHtoDAsync(memory.b, bytes.data(), bytes.size(), stream), CUDA_SUCCESS);
    bytes.fill(4);
    ASSERT_EQ(memory.look(stream), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    EXPECT_EQ(memory.seen[0], 3);
  });
}

TEST(FakeStream, PinnedMemoryIsReadWhenTheCopyRuns) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const Memory memory;
    const CUstream stream = make_stream();
    memory.seen[0] = 3;
    ASSERT_EQ(cuMemcpyHtoDAsync(memory.b, const_cast<unsigned char*>(memory.seen), 64, stream),
              CUDA_SUCCESS);
    memory.seen[0] = 4;
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    memory.seen[0] = 0;
    ASSERT_EQ(memory.look(stream), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    EXPECT_EQ(memory.seen[0], 4);
  });
}

TEST(FakeStream, AHostFunctionRunsInItsTurnAndOnAnotherThread) {
  for (const char* scheduler : {"eager", "lazy", "random:3"})
    run_program({std::string("FAKECUDA_SCHED=") + scheduler}, [] {
      use_device();
      static std::atomic<bool> ran{false};
      static std::thread::id where;
      const CUstream stream = make_stream();
      const auto function = [](void*) {
        where = std::this_thread::get_id();
        ran = true;
      };
      ASSERT_EQ(cuLaunchHostFunc(stream, function, nullptr), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
      EXPECT_TRUE(ran);
      EXPECT_NE(where, std::this_thread::get_id());
    });
}

TEST(FakeStream, WorkGoesOnAfterTheStreamIsDestroyed) {
  run_program({"FAKECUDA_SCHED=lazy"}, [] {
    use_device();
    const Memory memory;
    const CUstream stream = make_stream();
    const CUevent event = make_event();
    ASSERT_EQ(cuMemsetD8Async(memory.b, 8, 64, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamDestroy(stream), CUDA_SUCCESS);
    ASSERT_EQ(cuEventSynchronize(event), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_NE(reports_here().find("destroyed"), std::string::npos);
  });
}

TEST(FakeStream, AnEventIsRecordedOnlyOnStreamsOfItsContext) {
  run_program({}, [] {
    use_device(1);
    const CUstream other = make_stream();
    use_device(0);
    const CUevent event = make_event();
    EXPECT_EQ(cuEventRecord(event, other), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuEventRecord(event, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamWaitEvent(other, event, 0), CUDA_SUCCESS);
  });
}

TEST(FakeStream, TheRandomSchedulerRunsEverythingAndEachStreamInOrder) {
  for (const char* seed : {"11", "12", "13"})
    run_program({std::string("FAKECUDA_SCHED=random:") + seed}, [] {
      use_device();
      static std::string ran;  // by the one worker thread
      const CUstream one = make_stream(), two = make_stream();
      const auto append = [](void* letter) { ran += *static_cast<const char*>(letter); };
      static std::string letters = "aAbBcC";
      for (std::size_t i = 0; i < letters.size(); ++i)
        ASSERT_EQ(cuLaunchHostFunc(i % 2 == 0 ? one : two, append, &letters[i]), CUDA_SUCCESS);
      ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      std::string lower, upper;
      for (const char letter : ran) (letter >= 'a' ? lower : upper) += letter;
      EXPECT_EQ(lower, "abc");
      EXPECT_EQ(upper, "ABC");
    });
}

}  // namespace
}  // namespace fakecuda_test
