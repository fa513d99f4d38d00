#include "program.h"

#include <thread>

namespace fakecuda_test {
namespace {

CUstream capture_on(CUstreamCaptureMode mode) {
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamBeginCapture(stream, mode), CUDA_SUCCESS);
  return stream;
}

TEST(FakeCapture, WhatIsCapturedRunsWhenTheGraphIsLaunched) {
  run_program({}, [] {
    use_device();
    CUdeviceptr memory = 0;
    unsigned char seen = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
    const CUstream stream = capture_on(CU_STREAM_CAPTURE_MODE_GLOBAL);
    ASSERT_EQ(cuMemsetD8Async(memory, 6, 8, stream), CUDA_SUCCESS);
    CUstreamCaptureStatus status{};
    ASSERT_EQ(cuStreamIsCapturing(stream, &status), CUDA_SUCCESS);
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    ASSERT_EQ(cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoH(&seen, memory, 1), CUDA_SUCCESS);
    EXPECT_NE(seen, 6);
    ASSERT_EQ(cuGraphInstantiate(&exec, graph, 0), CUDA_SUCCESS);
    for (int i = 0; i < 2; ++i) {
      ASSERT_EQ(cuMemsetD8(memory, 0, 8), CUDA_SUCCESS);
      ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      ASSERT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
      ASSERT_EQ(cuMemcpyDtoH(&seen, memory, 1), CUDA_SUCCESS);
      EXPECT_EQ(seen, 6);
    }
  });
}

TEST(FakeCapture, AnotherThreadsAllocationBreaksAGlobalCaptureUnlessItIsRelaxed) {
  for (const bool relaxed : {false, true})
    run_program({}, [relaxed] {
      const CUcontext context = use_device();
      const CUstream stream = capture_on(CU_STREAM_CAPTURE_MODE_GLOBAL);
      std::thread([context, relaxed] {
        CUdeviceptr memory = 0;
        ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        if (relaxed) {
          ASSERT_EQ(cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
        }
        EXPECT_EQ(cuMemAlloc(&memory, 8),
                  relaxed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
      }).join();
      CUgraph graph = nullptr;
      EXPECT_EQ(cuStreamEndCapture(stream, &graph),
                relaxed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    });
}

TEST(FakeCapture, AWaitForWhatWasNotCapturedBreaksTheCapture) {
  run_program({}, [] {
    use_device();
    CUevent event = nullptr;
    ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, nullptr), CUDA_SUCCESS);
    const CUstream stream = capture_on(CU_STREAM_CAPTURE_MODE_RELAXED);
    EXPECT_EQ(cuStreamWaitEvent(stream, event, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  });
}

TEST(FakeCapture, AnInterprocessEventIsUnsupported) {
  run_program({}, [] {
    use_device();
    CUevent event = nullptr;
    ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, nullptr), CUDA_SUCCESS);
    const CUstream stream = capture_on(CU_STREAM_CAPTURE_MODE_RELAXED);
    EXPECT_EQ(cuStreamWaitEvent(stream, event, 0), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  });
}

TEST(FakeCapture, TheLegacyStreamMayNotWaitForABlockingStreamThatIsCaptured) {
  run_program({}, [] {
    use_device();
    CUstream stream = nullptr;
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc(&memory, 8), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_DEFAULT), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), CUDA_SUCCESS);
    EXPECT_EQ(cuMemsetD8Async(memory, 1, 8, CU_STREAM_LEGACY), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  });
}

TEST(FakeCapture, AStreamJoinsByAnEventWhichCannotBeAsked) {
  run_program({}, [] {
    use_device();
    CUstream joined = nullptr;
    CUevent event = nullptr;
    ASSERT_EQ(cuStreamCreate(&joined, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    const CUstream stream = capture_on(CU_STREAM_CAPTURE_MODE_RELAXED);
    ASSERT_EQ(cuEventRecord(event, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(joined, event, 0), CUDA_SUCCESS);
    CUstreamCaptureStatus status{};
    ASSERT_EQ(cuStreamIsCapturing(joined, &status), CUDA_SUCCESS);
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_CAPTURED_EVENT);
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamEndCapture(joined, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  });
}

TEST(FakeCapture, ASynchronisationOfWhatIsCapturedBreaksIt) {
  run_program({}, [] {
    use_device();
    const CUstream stream = capture_on(CU_STREAM_CAPTURE_MODE_RELAXED);
    EXPECT_EQ(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  });
}

}  // namespace
}  // namespace fakecuda_test
