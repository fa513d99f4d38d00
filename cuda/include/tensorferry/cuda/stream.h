// Streams of ours, and what is put on any stream.
//
// The free functions need the context of the stream current on this thread (ContextGuard): one
// guard serves several calls. They put work on the stream and return; none of them waits for the
// device. Errors: gpu_sticky when the context is broken, else gpu_driver.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <utility>

namespace tensorferry::cuda {

// A stream that neither waits for the legacy default stream nor makes it wait, at the highest
// priority: what we put there is copies that somebody waits for. Move-only; any thread.
class Stream {
 public:
  static Result<Stream> create(ContextPtr context);
  Stream(Stream&& other) noexcept
      : context_(std::move(other.context_)), handle_(std::exchange(other.handle_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept;
  ~Stream();  // work on it goes on

  StreamHandle get() const noexcept { return handle_; }
  const ContextPtr& context() const noexcept { return context_; }

 private:
  Stream(ContextPtr context, StreamHandle handle) noexcept
      : context_(std::move(context)), handle_(handle) {}
  ContextPtr context_;
  StreamHandle handle_ = nullptr;
};

// The event now stands for all that is on the stream so far. Say so to a peer only after this has
// returned: an event that was never recorded holds nobody up.
Result<void> record(EventHandle event, StreamHandle stream);
// What is put on the stream from now on waits for what the event stands for now. Stream and event
// may be of different devices.
Result<void> wait_event(StreamHandle stream, EventHandle event);
// True when what the event stands for is done. Needs no context.
Result<bool> query(EventHandle event);
// True while a graph is captured from the stream: no event of another process may be waited for
// there then.
Result<bool> is_capturing(StreamHandle stream);
// The event stands for all work of the context so far, whatever stream it is on. Breaks a graph
// that is being captured in it. Error Unsupported before CUDA 12.5.
Result<void> record_context(const PrimaryContext& context, EventHandle event);
// The same on any driver: before 12.5 by the legacy default stream, which waits for all streams but
// those that opt out of it.
Result<void> record_all(const PrimaryContext& context, EventHandle event);
// record(); where the stream is gone, record_all(): what was on it may go on.
Result<void> record_used(const PrimaryContext& context, EventHandle event, StreamHandle stream);

}  // namespace tensorferry::cuda
