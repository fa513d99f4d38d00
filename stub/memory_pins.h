// TENSORFERRY_PIN: shared memory that this stub has mapped is made known to the driver, so that the
// model's own copies between it and a GPU are true DMA, and `is_pinned()` is true.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/segment.h>

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tensorferry::stub {

class MemoryPins {
 public:
  // Segments that are mapped just now.
  using Mapped = std::function<std::vector<std::shared_ptr<Segment>>()>;
  // For what can't be pinned: told once.
  using Complaint = std::function<void(const std::string& why)>;

  MemoryPins(Mapped mapped, Complaint complaint)
      : mapped_(std::move(mapped)), complaint_(std::move(complaint)) {}

  // The model asks for it. Any thread.
  void want() noexcept { wanted_.store(true, std::memory_order_relaxed); }

  // Registers what isn't yet, once the model has made a CUDA context; never makes one. Before each
  // batch, on the thread that runs the model: cheap where there is nothing to do, else 100 ms and
  // more for large memory.
  void refresh();

 private:
  using Segments = std::vector<std::shared_ptr<Segment>>;
  Segments unpinned() const;
  void pin(const Segments& segments, int ordinal);
  void give_up(const Segments& segments, const Error& why);

  const Mapped mapped_;
  const Complaint complaint_;
  std::atomic<bool> wanted_{false};
  std::set<SegmentId> refused_;
};

}  // namespace tensorferry::stub
