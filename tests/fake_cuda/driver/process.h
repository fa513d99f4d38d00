// Who a process is: its number alone is used again by the kernel.
#pragma once

#include <cstdint>

namespace fakecuda {

struct ProcessId {
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot

  friend bool operator==(const ProcessId&, const ProcessId&) = default;
};

// start_time 0: there is no such process, or it has ended and nobody has waited for it.
ProcessId process_id(std::uint32_t pid);
ProcessId this_process();
bool is_alive(const ProcessId& process);

}  // namespace fakecuda
