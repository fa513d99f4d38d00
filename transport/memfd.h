// An anonymous file that can be sealed.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstddef>
#include <cstdint>

namespace tensorferry {

// What a file of this process may have, a memfd too: to go beyond it is a SIGXFSZ and not only an
// error. The largest number where nothing limits it.
std::uint64_t file_size_limit() noexcept;

// Of `bytes`, none of them reserved; closed by exec and not executable. `name` is what /proc shows.
Result<UniqueFd> new_memfd(const char* name, std::size_t bytes);

}  // namespace tensorferry
