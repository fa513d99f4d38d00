// FAKECUDA_FAIL: which call of which function fails, and how.
#pragma once

#include "cuda_api.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace fakecuda {

// FUNCTION:WHEN:WHAT, comma-separated. FUNCTION: exact name, or * at its end. WHEN: n (the n-th
// call from now), n+ (that and all later), every=k, p=0.1. WHAT: a result's number, hang, delay=MS,
// corrupt (copies: one byte comes out wrong).
struct Fault {
  std::string function;
  std::uint64_t nth = 0, every = 0;
  bool and_later = false;
  double probability = 0;
  CUresult result = CUDA_SUCCESS;
  bool hangs = false, corrupts = false;
  std::chrono::milliseconds delay{};
  std::uint64_t calls = 0;  // so far
};

std::optional<std::vector<Fault>> parse_faults(const std::string& text);

// Replaces all; any thread.
void set_faults(std::vector<Fault> faults);
// What the next call of `function` shall do; counts it.
struct Verdict {
  CUresult result = CUDA_SUCCESS;
  bool hangs = false;
  std::chrono::milliseconds delay{};
};
Verdict judge(const char* function);
// Set by a `corrupt` fault of the call that this thread is in; reading it takes it.
bool take_corruption();

}  // namespace fakecuda
