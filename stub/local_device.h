// A device as this process has it by itself: its context, a stream and events of ours. Opened when
// the model touches memory there, not before.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/error.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "device_use.h"

namespace tensorferry::stub {

// A range of device memory that is to be copied.
struct DeviceRange {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;               // as packed
  std::optional<cuda::Gather> gather;  // none: it lies in C order
};

// Thread-safe. Its functions enter the context by themselves.
class LocalDevice {
 public:
  static Result<std::unique_ptr<LocalDevice>> open(const cuda::Device& device);

  int ordinal() const noexcept { return context_->device().ordinal; }
  const cuda::ContextPtr& context() const noexcept { return context_; }
  cuda::StreamHandle stream() const noexcept { return stream_.get(); }

  // The event stands for all that is on the stream so far; for kAnyStream all of the context.
  // Error gpu_capture_active where a graph is captured from it: what the event would stand for runs
  // when somebody launches the graph.
  Result<void> record(cuda::EventHandle event, UsedStream stream) const;
  Result<bool> is_capturing(UsedStream stream) const;

  // The same with an event of ours, which is_done() gives back once it says so.
  Result<cuda::EventSlot> mark(UsedStream stream);
  bool is_done(const cuda::EventSlot& event);
  // What is put on `then` from now on waits for what is on `first` so far. No thread waits.
  Result<void> order(UsedStream first, cuda::StreamHandle then);
  // A stream that comes after all of these: the only one, or ours.
  Result<cuda::StreamHandle> stream_after(const std::vector<UsedStream>& streams);
  // Puts a packing copy of the range on the stream.
  Result<void> copy(std::byte* to, const DeviceRange& from, cuda::StreamHandle stream,
                    CopyKind kind);
  // Waits on this thread for what is on the stream so far.
  Result<void> wait(UsedStream stream, cuda::WaitReason reason);

 private:
  LocalDevice(cuda::ContextPtr context, cuda::Stream stream,
              std::unique_ptr<cuda::EventRing> events) noexcept
      : context_(std::move(context)),
        stream_(std::move(stream)),
        events_(std::move(events)) {}  // the context is current

  const cuda::ContextPtr context_;
  const cuda::Stream stream_;
  const std::unique_ptr<cuda::EventRing> events_;
};

}  // namespace tensorferry::stub
