#include "stub_state.h"

#include <tensorferry/transport/fork_guard.h>

namespace tensorferry::stub {

StubState& state() noexcept {
  static StubState one;
  return one;
}

bool is_forked_child() noexcept { return fork_generation() != state().generation; }

}  // namespace tensorferry::stub
