// How often this thread has called operator new, in the whole test executable.
#pragma once

#include <cstddef>

namespace tensorferry {

std::size_t heap_allocations() noexcept;

}  // namespace tensorferry
