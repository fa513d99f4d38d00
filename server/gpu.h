// A GPU as the server uses it: one context, one stream for all that we put there, one place that
// looks for what is done. Nothing of CUDA is touched before the first device tensor comes.
#pragma once

#include <tensorferry/cuda/device_queue.h>
#include <tensorferry/transport/device.h>
#include <tensorferry/transport/segment.h>

#include <map>
#include <memory>
#include <mutex>

namespace tensorferry::server {

// Thread-safe.
class Gpu final : public cuda::DeviceQueue {
 public:
  // Makes the primary context, if nobody in this process has done so.
  static Result<std::shared_ptr<Gpu>> open(int ordinal,
                                           std::shared_ptr<cuda::CompletionPoller> poller);

  // Our ordinal, which the wire names it by too.
  Device name() const noexcept { return {DeviceKind::Cuda, device().ordinal}; }

 private:
  explicit Gpu(Parts parts) : cuda::DeviceQueue(std::move(parts)) {}
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
