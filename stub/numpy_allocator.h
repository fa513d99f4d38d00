// Large NumPy arrays are born in the arena while execute() runs (NEP 49).
#pragma once

#include "holdings.h"
#include "py.h"

namespace tensorferry::stub {

// Makes large arrays of the calling thread's context be born in the arena from now on; does nothing
// when it is done already, and where NumPy is older than 1.22. Where NumPy isn't imported yet it is
// done as soon as this thread does that by numpy::load(). False with an exception set on failure.
bool install_allocator(Holdings* holdings);
// Puts the handler back that was there before.
bool restore_allocator();
// In a forked child: arena memory is a private copy there, so nothing is taken from it or given
// back to it.
void disown_allocator() noexcept;

}  // namespace tensorferry::stub
