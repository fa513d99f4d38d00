// How often this thread has called operator new, in the whole test executable.
#pragma once

#include <cstddef>

namespace tensorferry {

std::size_t heap_allocations() noexcept;

// ThreadSanitizer brings operator new of its own, which cannot be replaced: nothing is counted
// there.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TENSORFERRY_HEAP_IS_NOT_COUNTED
#endif
#endif
#ifdef TENSORFERRY_HEAP_IS_NOT_COUNTED
inline constexpr bool kHeapIsCounted = false;
#else
inline constexpr bool kHeapIsCounted = true;
#endif

}  // namespace tensorferry
