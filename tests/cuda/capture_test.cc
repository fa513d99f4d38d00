// A model that captures a graph is not disturbed by what this library does beside it.
#include <dlfcn.h>
#include <sys/mman.h>
#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/pinned_region.h>
#include <tensorferry/cuda/stream.h>

#include <future>
#include <thread>

#include "fake_driver.h"
#include "owned_event.h"

namespace tensorferry::cuda {
namespace {

template <class Function>
Function driver_function(const char* name) {
  return reinterpret_cast<Function>(
      ::dlsym(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), name));
}

// A capture of a user's, in the mode that forbids the most.
class CaptureTest : public GpuTest {
 protected:
  void begin(StreamHandle stream) {
    auto guard = enter();
    auto* call = driver_function<int (*)(StreamHandle, int)>("cuStreamBeginCapture_v2");
    ASSERT_EQ(call(stream, 0), 0);
    EXPECT_TRUE(is_capturing(stream).value());
  }
  // False where something has broken it.
  bool end(StreamHandle stream) {
    auto guard = enter();
    void* graph = nullptr;
    auto* call = driver_function<int (*)(StreamHandle, void**)>("cuStreamEndCapture");
    if (call(stream, &graph) != 0) return false;
    driver_function<int (*)(void*)>("cuGraphDestroy")(graph);
    return true;
  }
};

TEST_F(CaptureTest, IsNotBrokenByChunksRingsAndPinning) {
  auto user = make_stream();
  constexpr std::size_t kHost = 1 << 16;
  auto* host = static_cast<std::byte*>(
      ::mmap(nullptr, kHost, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  begin(user.get());
  for (ShareMode mode : {ShareMode::Vmm, ShareMode::LegacyIpc}) {
    auto chunk = Chunk::create(context(), 1, mode);
    ASSERT_TRUE(chunk) << chunk.error().message;
    chunk->reset();
  }
  std::thread([&] {
    EXPECT_TRUE(EventRing::create(context(), 2));
    EXPECT_TRUE(PinnedRegion::create(context(), {host, kHost}));
  }).join();
  EXPECT_TRUE(end(user.get()));
  ::munmap(host, kHost);
}

TEST_F(CaptureTest, IsNotBrokenByThePoller) {
  auto user = make_stream();
  auto stream = make_stream();
  CompletionPoller poller;
  auto guard = enter();
  auto event = make_event(false);
  ASSERT_TRUE(record(event->get(), stream.get()));
  begin(user.get());
  std::promise<bool> done;
  poller.watch(event->get(), 1, [&](const Result<void>& how) { done.set_value(how.has_value()); });
  EXPECT_TRUE(done.get_future().get());
  EXPECT_TRUE(end(user.get()));
}

}  // namespace
}  // namespace tensorferry::cuda
