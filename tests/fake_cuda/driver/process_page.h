// What this process counts and reports, in a file that outlives it: a test reads it after a SIGKILL
// too.
#pragma once

#include "fakecuda.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace fakecuda {

inline constexpr int kMaxFunctions = 768;
inline constexpr int kReportBytes = 256 * 1024;

struct FunctionCount {
  std::atomic<std::uint32_t> state{0};  // 0 free, 1 being written, 2 valid
  std::array<char, 52> name{};
  std::atomic<std::uint64_t> calls{0};
};

struct ProcessPage {
  std::atomic<std::uint64_t> magic;
  std::atomic<std::uint32_t> pid;
  fakecuda_counters counters;
  fakecuda_live live;
  std::array<FunctionCount, kMaxFunctions> functions;
  std::atomic<std::uint64_t> report_bytes;
  std::array<char, kReportBytes> reports;
};

// Always there: before open(), and where no file can be made, in memory of this process alone.
ProcessPage& process_page();
// Goes on in `folder`/<pid>.fakecuda. What was counted before goes along.
void open_process_page(const std::string& folder);
void remove_process_page();

void count(std::uint64_t fakecuda_counters::* counter, std::uint64_t by = 1);
void count_down(std::uint64_t fakecuda_counters::* counter, std::uint64_t by);
std::uint64_t counted(std::uint64_t fakecuda_counters::* counter);
// The place of a function in `functions`, given at its first call.
std::size_t function_index(std::string_view name);
void report(std::string_view line);

}  // namespace fakecuda
