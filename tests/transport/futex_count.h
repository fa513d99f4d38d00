// How often this thread has called futex through syscall(2), in the whole test executable: all ways
// of transport/futex.cc and std::atomic::wait.
#pragma once

#include <cstddef>

namespace tensorferry {

std::size_t futex_calls() noexcept;

}  // namespace tensorferry
