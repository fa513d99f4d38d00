// Holders of blocks that have let go after events, or that are dead peers: who still counts, and
// until when. Private memory; one thread at a time (the pool's mutex).
#pragma once

#include <tensorferry/cuda/device_pool.h>
#include <tensorferry/cuda/stream.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

namespace tensorferry::cuda {

class LetGoLater {
 public:
  // What has come to an end: holders to drop, and callbacks to make without the lock.
  struct Ended {
    std::vector<DeviceBlockId> blocks;
    std::vector<DevicePool::Done> callbacks;
  };

  void add(DeviceBlockId block, std::vector<EventHandle> events, PeerId by, DevicePool::Done done) {
    waiting_.push_back({block, by, std::move(events), std::move(done)});
  }
  void add_quarantined(DeviceBlockId block, PeerId peer) { quarantined_.emplace_back(peer, block); }

  // Those that are done, in the order in which they came, up to the first that is not: what a call
  // costs when nothing is done is one query.
  Ended take_first_done() {
    Ended ended;
    while (!waiting_.empty() && waiting_.front().is_done()) {
      end(waiting_.front(), ended);
      waiting_.pop_front();
    }
    return ended;
  }
  // All that are done.
  Ended take_done() {
    Ended ended;
    std::erase_if(waiting_, [&](Waiting& each) {
      if (!each.is_done()) return false;
      end(each, ended);
      return true;
    });
    return ended;
  }

  // What waits for the peer's events waits for end_quarantine() instead.
  void quarantine(PeerId peer) {
    std::erase_if(waiting_, [&](const Waiting& each) {
      if (each.by == peer) quarantined_.emplace_back(peer, each.block);
      return each.by == peer;
    });
  }
  std::vector<DeviceBlockId> end_quarantine(PeerId peer) {
    std::vector<DeviceBlockId> blocks;
    std::erase_if(quarantined_, [&](const auto& each) {
      if (each.first == peer) blocks.push_back(each.second);
      return each.first == peer;
    });
    return blocks;
  }

  std::size_t waiting() const noexcept { return waiting_.size(); }
  std::size_t quarantined() const noexcept { return quarantined_.size(); }

 private:
  struct Waiting {
    DeviceBlockId block;
    PeerId by;
    std::vector<EventHandle> events;
    DevicePool::Done done;

    // An event that the driver can't tell about (a broken context) is never done.
    bool is_done() {
      std::erase_if(events, [](EventHandle event) {
        const auto passed = query(event);
        return passed && *passed;
      });
      return events.empty();
    }
  };

  static void end(Waiting& each, Ended& ended) {
    ended.blocks.push_back(each.block);
    if (each.done) ended.callbacks.push_back(std::move(each.done));
  }

  std::deque<Waiting> waiting_;
  std::vector<std::pair<PeerId, DeviceBlockId>> quarantined_;
};

}  // namespace tensorferry::cuda
