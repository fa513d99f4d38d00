// What a peer may still have open when this process is finished with it: kept until the peer's
// process has ended.
#pragma once

#include <tensorferry/transport/unique_fd.h>

#include <memory>
#include <vector>

namespace tensorferry {

// Lets go of everything at once where the process has ended, else at a later call after its end, or
// at exit. Thread-safe.
void keep_for_peer(UniqueFd pidfd, std::vector<std::shared_ptr<void>> kept);

}  // namespace tensorferry
