// An answer's right to a range of its stub's arena. When it is dropped the stub gets the range
// back; when the stub is gone before that, the segment itself lives on until the last lease goes.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/server/void_after_fork.h>
#include <tensorferry/transport/segment.h>

#include <memory>

#include "stub_link.h"

namespace tensorferry::server {

class StubLease final : public BufferHolder {
 public:
  StubLease(std::weak_ptr<StubLink> link, std::shared_ptr<Segment> segment, std::uint64_t lease)
      : link_(std::move(link)), segment_(std::move(segment)), lease_(lease) {}
  ~StubLease() override {
    if (!home_.is_here()) return;  // a forked child gives nothing of its parent's back
    if (auto link = link_.lock()) link->release_stub_range(lease_);
  }
  StubLease(const StubLease&) = delete;
  StubLease& operator=(const StubLease&) = delete;

 private:
  std::weak_ptr<StubLink> link_;
  std::shared_ptr<Segment> segment_;
  std::uint64_t lease_;
  Home home_;
};

}  // namespace tensorferry::server
