// A device as one process works with it: its context, one stream for all that we put there, and
// marks on anybody's streams, which a poller looks at.
#pragma once

#include <tensorferry/cuda/completion_poller.h>
#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/error.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

namespace tensorferry::cuda {

class EventPool;

// Device memory of somebody else's in this process, that is to be copied.
struct ForeignMemory {
  const std::byte* address = nullptr;
  std::size_t bytes = 0;  // in C order
  // The stream that its owner works on: the copy is put there. None: nobody writes it while
  // `keeper` is held.
  std::optional<StreamHandle> stream;
  // Without a stream: who wrote it may not be done, so that the copy comes after all that this
  // process has put on the device. Else it is complete.
  bool after_all = false;
  std::shared_ptr<void> keeper;  // let go of when the copy is done
};

// Thread-safe. What is put on its stream runs in that order.
class DeviceQueue {
 public:
  struct Parts {
    ContextPtr context;
    Stream stream;
    std::shared_ptr<EventPool> marks;
    std::shared_ptr<CompletionPoller> poller;
  };
  // Makes the primary context, if nobody in this process has done so.
  static Result<Parts> make(const Device& device, std::shared_ptr<CompletionPoller> poller);
  explicit DeviceQueue(Parts parts) : parts_(std::move(parts)) {}
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;

  const Device& device() const noexcept { return parts_.context->device(); }
  const ContextPtr& context() const noexcept { return parts_.context; }
  CompletionPoller& poller() const noexcept { return *parts_.poller; }
  // For others to make it wait, by its number, for what they have.
  StreamHandle stream() const noexcept { return parts_.stream.get(); }

  // Calls `work(stream)` with the context current and nobody else on the stream meanwhile.
  template <class Work>
  Result<void> enqueue(Work&& work) {
    std::scoped_lock lock(mutex_);
    auto guard = ContextGuard::enter(*parts_.context);
    if (!guard) return std::unexpected(guard.error());
    return work(parts_.stream.get());
  }
  // What we put on our stream from now on waits for what is on the caller's so far; for none, for
  // all that anybody in this process has put on the device. No thread waits.
  Result<void> follow(std::optional<StreamHandle> stream);

  // Puts a counted copy on a stream, which it returns: its owner's, or ours.
  Result<StreamHandle> copy_in(DevicePtr to, const ForeignMemory& from);
  // Puts a counted copy of host memory on our stream: both ends stay until it is done. Where it
  // isn't pinned, the driver copies it elsewhere first.
  Result<void> put_to_device(DevicePtr to, std::span<const std::byte> from);
  // Puts a counted copy of as many bytes as `to` has, some, on our stream; where `to` isn't pinned,
  // the driver waits meanwhile.
  Result<void> put_to_host(std::span<std::byte> to, const std::byte* from);
  // The same of any number of bytes. Waits for the device; counted as a wait for a host array.
  Result<void> copy_to_host(std::span<std::byte> to, const std::byte* from);

  // Called on the poller's thread (completion_poller.h) once all that is on the streams so far is
  // done; nullptr stands for all that anybody in this process has put on the device. With an error
  // where that can't be known.
  using Done = CompletionPoller::Done;
  void when_done(std::span<const StreamHandle> streams, Done done);
  // Waits on this thread until all that is on our stream, or on that one, is done; counted by
  // reason.
  Result<void> wait(WaitReason reason) { return wait(reason, stream()); }
  Result<void> wait(WaitReason reason, StreamHandle stream);

 protected:
  ~DeviceQueue() = default;

 private:
  Result<EventHandle> mark(std::optional<StreamHandle> stream);

  const Parts parts_;
  std::mutex mutex_;  // the stream's
};

}  // namespace tensorferry::cuda
