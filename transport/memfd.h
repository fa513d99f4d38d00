// An anonymous file that can be sealed.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstddef>

namespace tensorferry {

// Of `bytes`, none of them reserved; closed by exec and not executable. `name` is what /proc shows.
Result<UniqueFd> new_memfd(const char* name, std::size_t bytes);

}  // namespace tensorferry
