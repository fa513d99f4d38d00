// A loaded model: a handle for sending requests to its instances.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/server/device_source.h>
#include <tensorferry/server/model_config.h>
#include <tensorferry/server/request.h>
#include <tensorferry/server/statistics.h>
#include <tensorferry/transport/deadline.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace tensorferry::server {

class CallState;
class ModelSlot;
class ModelState;

// A submitted request. Dropping the handle lets it run on; nobody gets the answer then. A handle is
// used by one thread at a time; a copy of it may cancel from another thread. In a forked child it
// is done: what had not been answered at the fork fails with Closed, and runs on for the parent.
class Call {
 public:
  Call() = default;
  Call(std::shared_ptr<CallState> state, std::shared_ptr<ModelState> model);

  // Waits until it is answered; false when the deadline passed first. One thread at a time, over
  // all copies: a second one ends the program. The waiting thread reads the stub's ring itself
  // (transport/inbox.h).
  bool wait(const Deadline& deadline = {});
  bool done() const noexcept;
  // The answer, once. wait() must have returned true (done() be true). The handle is spent then: it
  // is done, and cancel() does nothing.
  Result<void> take(Response& response);
  // Not started yet: it is taken out of the queue and fails with `code`. Running: the stub is told,
  // and the call fails with `code` at once; whatever the stub answers later is dropped. Kills
  // nobody.
  void cancel(ErrorCode code, std::string why);

 private:
  std::shared_ptr<CallState> state_;  // none once it is taken
  std::shared_ptr<ModelState> model_;
};

// Thread-safe, cheap to copy. Follows the model when it is loaded anew. Errors of a model that was
// unloaded: Closed.
class Model {
 public:
  Model() = default;
  explicit Model(std::shared_ptr<ModelSlot> slot);

  const std::string& name() const noexcept;
  std::int64_t version() const noexcept;
  ModelConfig config() const;   // as completed
  bool ready() const noexcept;  // at least one instance's stub lives and is initialised
  // Closed in a process that was forked from the one that loaded it.
  Result<void> check_process() const;
  ModelStatistics statistics() const;

  // Memory of the model's host arena, to be filled and then given with a Request: no copy on the
  // way in. From a page (4096 bytes) up; smaller sizes give ordinary memory, since small tensors
  // travel inside the message.
  Result<Buffer> allocate(std::size_t bytes);
  // The same on a GPU (DeviceKind::Cuda, our ordinal): page-aligned, to be written by work on any
  // stream. No work of anybody else's is under way there. Errors also: that there is no such
  // device.
  Result<Buffer> allocate(std::size_t bytes, const Device& device);
  // One counted copy of device memory, put on its owner's stream: what the owner puts on it later
  // does not reach the copy. Waits for nobody. `source` is kept until the copy is done.
  Result<Buffer> copy_in(const DeviceSource& source);
  // The same of a device buffer of ours: an answer that its receiver keeps.
  Result<Buffer> copy_in(const Buffer& on_device);
  // Which device (our ordinal) an address belongs to. Error InvalidArgument: to none.
  Result<int> device_of(std::uintptr_t address) const;
  // The stream that copies without a DeviceSource::stream are put on, for their producers to make
  // it wait (DLPack's `stream`); and waiting on this thread, counted, until those copies are done.
  Result<std::uintptr_t> device_stream(int device);
  Result<void> finish_copies(int device);
  // The same with a copy of `bytes` in it: the one counted copy of an ordinary array.
  Result<Buffer> copy_in(std::span<const std::byte> bytes);

  // Checks the request against the config and puts it on its way. Error: InvalidArgument with what
  // was expected, QueueFull, Closed, Unavailable. The request's tensors are moved from: its inputs
  // are given. Buffers that don't lie in this model's host arena are copied there first. `on_done`,
  // if given, is called once, by the thread that reads the answer: it must be short, must not
  // block, and must not call wait(). The Call is done before it runs. When the deadline passes
  // first, the request is cancelled with DeadlineExceeded, whether anybody waits for it or not. On
  // an error nothing was sent, and `request` is still the caller's.
  Result<Call> submit(Request&& request, std::function<void()> on_done = {},
                      const Deadline& deadline = {});
  // submit, wait, take. The deadline is the caller's whole one: when it passes the request is
  // cancelled and the error is DeadlineExceeded. `request` is cleared, `response` overwritten;
  // neither allocates once warm.
  Result<void> infer(Request& request, Response& response, const Deadline& deadline = {});

 private:
  std::shared_ptr<ModelSlot> slot_;
};

}  // namespace tensorferry::server
