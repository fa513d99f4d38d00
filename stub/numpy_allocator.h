// Large NumPy arrays are born in the arena while execute() runs (NEP 49).
#pragma once

#include "output_plan.h"
#include "py.h"

namespace tensorferry::stub {

// Installs the allocator as NumPy's current handler (a context variable); returns the handler that
// was there, to be given to restore_allocator(). Nothing where NumPy isn't imported or is older
// than 1.22. The GIL is held.
PyRef install_allocator(Holdings& holdings);
void restore_allocator(PyRef previous);
// In a forked child: arena memory is a private copy there, so nothing is taken from it or given
// back to it.
void disown_allocator() noexcept;

}  // namespace tensorferry::stub
