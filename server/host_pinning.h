// Makes a model's host arena known to the driver, so that copies between it and a GPU are true DMA
// that nobody waits for. In the background, and only once the server has a context there anyway. To
// be refused (limits, memory, platforms) is normal: the copies are waited for then.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/transport/log.h>

#include <atomic>
#include <memory>
#include <string>

#include "background.h"
#include "host_arena.h"

namespace tensorferry::server {

// Thread-safe.
class HostPinning final : private HostArena::Subscriber {
 public:
  HostPinning(std::string model, std::shared_ptr<HostArena> host,
              std::shared_ptr<Background> background, std::shared_ptr<Logger> logger);
  ~HostPinning() override;
  HostPinning(const HostPinning&) = delete;
  HostPinning& operator=(const HostPinning&) = delete;

  // From now on each segment of the arena is registered, once; for all devices, whichever context
  // it is. Calls after the first do nothing.
  void begin(cuda::ContextPtr context);

 private:
  struct Refusals;
  void on_segment(const HostArena& arena, const Segment& segment) override;
  // Unregistered when the last one lets go of it, just before it is unmapped.
  void on_segment_dropped(SegmentId) override {}

  const std::shared_ptr<HostArena> host_;
  const std::shared_ptr<Background> background_;
  const std::shared_ptr<Refusals> refusals_;
  std::atomic<bool> begun_{false};
  cuda::ContextPtr context_;  // constant once subscribed
  const Home home_;
};

}  // namespace tensorferry::server
