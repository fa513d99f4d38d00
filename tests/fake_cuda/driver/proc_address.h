// Which versions a function has: from which driver on, and under which exact name it is exported.
#pragma once

#include <span>

namespace fakecuda {

struct Variant {
  const char* base;
  int since;
  const char* symbol;
};

// All functions that have more than one version, or whose name differs from its base. Others are
// found by their own name.
std::span<const Variant> variants();

}  // namespace fakecuda
