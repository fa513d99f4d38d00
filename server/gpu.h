// A GPU as the server uses it: one context, one stream for all that we put there, one place that
// looks for what is done. Nothing of CUDA is touched before the first device tensor comes.
#pragma once

#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/device.h>
#include <tensorferry/transport/segment.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

namespace tensorferry::server {

// Thread-safe. What is put on its stream runs in that order.
class Gpu {
 public:
  // Makes the primary context, if nobody in this process has done so.
  static Result<std::shared_ptr<Gpu>> open(int ordinal,
                                           std::shared_ptr<cuda::CompletionPoller> poller);

  // Our ordinal, which the wire names it by too.
  Device name() const noexcept { return {DeviceKind::Cuda, device_.ordinal}; }
  const cuda::Device& device() const noexcept { return device_; }
  const cuda::ContextPtr& context() const noexcept { return context_; }
  cuda::CompletionPoller& poller() const noexcept { return *poller_; }
  // For others to make it wait, by its number, for what they have.
  cuda::StreamHandle stream() const noexcept { return stream_.get(); }

  // Calls `work(stream)` with the context current and nobody else on the stream meanwhile.
  template <class Work>
  Result<void> enqueue(Work&& work) {
    std::scoped_lock lock(mutex_);
    auto guard = cuda::ContextGuard::enter(*context_);
    if (!guard) return std::unexpected(guard.error());
    return work(stream_.get());
  }
  // What we put on our stream from now on waits for what is on the caller's so far; for none, for
  // all that anybody in this process has put on the device. No thread waits.
  Result<void> follow(std::optional<cuda::StreamHandle> stream);

  // Called on the poller's thread (completion_poller.h) once all that is on the streams so far is
  // done. With an error where that can't be known.
  using Done = cuda::CompletionPoller::Done;
  void when_done(std::span<const cuda::StreamHandle> streams, Done done);
  // Waits on this thread until all that is on our stream, or on that one, is done; counted by
  // reason.
  Result<void> wait(cuda::WaitReason reason) { return wait(reason, stream_.get()); }
  Result<void> wait(cuda::WaitReason reason, cuda::StreamHandle stream);

 private:
  Gpu(const cuda::Device& device, cuda::ContextPtr context, cuda::Stream stream,
      std::unique_ptr<cuda::EventRing> events, std::shared_ptr<cuda::CompletionPoller> poller);
  Result<cuda::EventSlot> mark(std::optional<cuda::StreamHandle> stream);

  const cuda::Device device_;
  const cuda::ContextPtr context_;
  const std::shared_ptr<cuda::CompletionPoller> poller_;
  const std::shared_ptr<cuda::EventRing> events_;  // of our own
  std::mutex mutex_;                               // the stream's
  cuda::Stream stream_;
};

// The GPUs of one server, each opened when it is first asked for. Thread-safe.
class Gpus {
 public:
  // Errors: those of cuda::Driver::get() and cuda::device_by_ordinal().
  Result<std::shared_ptr<Gpu>> open(int ordinal);

 private:
  std::mutex mutex_;
  std::shared_ptr<cuda::CompletionPoller> poller_;
  std::map<int, std::shared_ptr<Gpu>> opened_;
};

}  // namespace tensorferry::server
