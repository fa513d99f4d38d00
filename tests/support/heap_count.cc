#include "heap_count.h"

#include <cstdlib>
#include <new>

namespace {
thread_local std::size_t allocations = 0;
}  // namespace

#ifndef TENSORFERRY_HEAP_IS_NOT_COUNTED
// All that a plain delete may be given: a sanitizer's own would not take what these hand out.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void* operator new(std::size_t bytes) {
  void* memory = operator new(bytes, std::nothrow);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace tensorferry {

std::size_t heap_allocations() noexcept { return allocations; }

}  // namespace tensorferry
