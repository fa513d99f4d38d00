// Where an operation was enqueued, in words that every process can read.
#pragma once

#include <string>

namespace fakecuda {

struct Driver;
struct Stream;
class System;

// A number for "process, stream, operation, caller". The same for the same; 0: there are too many.
std::uint32_t site_of(Driver& driver, const Stream& stream, const char* what);
std::string site_text(System& system, std::uint64_t site);

}  // namespace fakecuda
