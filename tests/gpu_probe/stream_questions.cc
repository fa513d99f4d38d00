#include <tensorferry/cuda/event_ring.h>

#include "crossing.h"
#include "owned_event.h"

namespace tensorferry::gpu_probe {
namespace {

constexpr int kThreadLocal = 1;  // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
constexpr int kCalls = 1000;

// What the driver says to a wait for the event inside a capture, and to the capture's end.
std::string wait_captured(const Gpu& gpu, cuda::EventHandle event) {
  auto* begin = driver_function<int(cuda::StreamHandle, int)>("cuStreamBeginCapture_v2");
  auto* end = driver_function<int(cuda::StreamHandle, void**)>("cuStreamEndCapture");
  if (!begin || !end) return "the driver can't capture";
  if (int code = begin(gpu.stream(), kThreadLocal)) return "begin: " + name_of(code);
  const int waited = cuda::raw_call<"cuStreamWaitEvent">(gpu.stream(), event, 0U);
  void* graph = nullptr;
  const int ended = end(gpu.stream(), &graph);
  return "wait: " + name_of(waited) + ", end of the capture: " + name_of(ended);
}

// Microseconds per call of `body`.
template <class Body>
Result<double> cost_of(const Gpu& gpu, const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i)
    if (auto done = body(); !done) return std::unexpected(done.error());
  const double all = microseconds_since(start);
  if (auto done = gpu.finish(); !done) return std::unexpected(done.error());
  return all / kCalls;
}

}  // namespace

Result<Answer> waiting_inside_a_capture() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto ring = cuda::EventRing::create(gpu->context(), 1);
  if (!ring) return std::unexpected(ring.error());
  if (auto put = cuda::record((*ring)->at(0), gpu->stream()); !put)
    return std::unexpected(put.error());
  if (auto done = gpu->finish(); !done) return std::unexpected(done.error());
  auto handles = (*ring)->export_handles();
  if (!handles) return std::unexpected(handles.error());
  auto helper = Helper::start("capture");
  if (!helper) return std::unexpected(helper.error());
  if (auto sent = helper->link().send({.handle = handles->front()}); !sent)
    return std::unexpected(sent.error());
  // What it has to say is a text, whatever happened.
  auto theirs = helper->link().receive();
  const std::string opened = theirs ? "nothing was said" : theirs.error().message;
  const std::string made = wait_captured(*gpu, (*ring)->at(0));
  const bool all_well = (opened + made).find("CUDA_ERROR") == std::string::npos;
  return Answer{all_well ? "allowed" : "refused",
                "who opened it: " + opened + "; who made it: " + made};
}

Result<void> wait_in_a_capture(const Link& link) {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto asked = link.receive();
  if (!asked) return std::unexpected(asked.error());
  auto events = cuda::PeerEvents::open(gpu->context(), std::span(&asked->handle, 1));
  if (!events) return std::unexpected(events.error());
  Message answer;
  set_text(answer, wait_captured(*gpu, *(*events)->at(0)));
  return link.send(answer);
}

Result<Answer> cost_of_recording_a_context() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto event = cuda::make_event(false);
  if (!event) return std::unexpected(event.error());
  auto context = cost_of(*gpu, [&] { return cuda::record_context(*gpu->context(), event->get()); });
  if (!context) return Answer{"not there", context.error().message};
  auto stream = cost_of(*gpu, [&] { return cuda::record(event->get(), gpu->stream()); });
  if (!stream) return std::unexpected(stream.error());
  if (emulated()) return Answer{"works", "not timed: the driver is emulated"};
  return Answer{time_text(*context), "cuEventRecord on one stream: " + time_text(*stream) +
                                         "; each the mean of " + std::to_string(kCalls)};
}

}  // namespace tensorferry::gpu_probe
