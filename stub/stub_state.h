// What this process is: the one link to its server and what Python holds of it.
#pragma once

#include <cstdint>

#include "holdings.h"
#include "stub_link.h"

namespace tensorferry::stub {

// One per process: it is the process's reason to be. Set by open(), never destroyed.
struct StubState {
  StubLink* link = nullptr;
  Holdings* holdings = nullptr;
  std::uint64_t generation = 0;  // of forks, at open()
  bool strict = false;  // as the original has it, where ours does more (TENSORFERRY_STRICT)
};

StubState& state() noexcept;
// In a process that the model forked: nothing may be sent, taken or given back there.
bool is_forked_child() noexcept;

}  // namespace tensorferry::stub
