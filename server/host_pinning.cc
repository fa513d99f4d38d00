#include "host_pinning.h"

#include <tensorferry/cuda/pinned_segment.h>

#include <utility>

namespace tensorferry::server {
// Of one model; shared with the jobs under way.
struct HostPinning::Refusals {
  const std::string model;
  const std::shared_ptr<Logger> logger;
  bool said = false;  // the background thread's

  void pin(Segment& segment, cuda::ContextPtr context) {
    auto pinned = cuda::pin_segment(segment, std::move(context));
    if (pinned || std::exchange(said, true)) return;
    logger->info(model,
                 "host memory of the model's can't be pinned, so that copies between it and a "
                 "GPU are waited for: " +
                     pinned.error().message);
  }
};

HostPinning::HostPinning(std::string model, std::shared_ptr<HostArena> host,
                         std::shared_ptr<Background> background, std::shared_ptr<Logger> logger)
    : host_(std::move(host)),
      background_(std::move(background)),
      refusals_(new Refusals{.model = std::move(model), .logger = std::move(logger)}) {}

HostPinning::~HostPinning() {
  if (begun_ && home_.is_here()) host_->unsubscribe(*this);
}

void HostPinning::begin(cuda::ContextPtr context) {
  if (begun_.exchange(true)) return;
  context_ = std::move(context);
  host_->subscribe(*this);
}

void HostPinning::on_segment(const HostArena&, const Segment& segment) {
  background_->run([arena = std::weak_ptr(host_), id = segment.id(), context = context_,
                    refusals = refusals_]() mutable {
    auto host = arena.lock();
    if (auto found = host ? host->find_segment(id) : nullptr)
      refusals->pin(*found, std::move(context));
  });
}

}  // namespace tensorferry::server
