#include "kept_for_peer.h"

#include <tensorferry/transport/fork_guard.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "peer_process.h"

namespace tensorferry {
namespace {

struct Kept {
  UniqueFd pidfd;
  std::vector<std::shared_ptr<void>> things;
};

struct Store {
  const std::uint64_t generation = fork_generation();
  std::mutex mutex;
  std::vector<Kept> kept;
};

// Never destroyed: what belongs to peers that live on goes with the process. A forked child has one
// of its own, since nothing of its parent's devices may be touched there.
Store& store() {
  static std::mutex choosing;
  static Store* one = nullptr;
  std::scoped_lock lock(choosing);
  if (!one || one->generation != fork_generation()) one = new Store;
  return *one;
}

void sweep() {
  std::vector<Kept> over;  // let go of outside the lock: that may take its time
  Store& all = store();
  std::scoped_lock lock(all.mutex);
  std::erase_if(all.kept, [&](Kept& one) {
    if (!has_ended(one.pidfd)) return false;
    over.push_back(std::move(one));
    return true;
  });
}

}  // namespace

void keep_for_peer(UniqueFd pidfd, std::vector<std::shared_ptr<void>> kept) {
  // Registered after the driver was loaded, so that it runs before the driver's own end.
  static const int registered = std::atexit(sweep);
  (void)registered;
  {
    Store& all = store();
    std::scoped_lock lock(all.mutex);
    all.kept.push_back({std::move(pidfd), std::move(kept)});
  }
  sweep();
}

}  // namespace tensorferry
