#include "process.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

namespace fakecuda {

ProcessId process_id(std::uint32_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(')');  // a name may hold spaces and parentheses
  if (name_end == std::string::npos) return {pid, 0};
  std::istringstream rest(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22 && rest >> field; ++i)
    if (i == 3 && (field == "Z" || field == "X")) return {pid, 0};
  return {pid, std::stoull("0" + field)};
}

ProcessId this_process() { return process_id(static_cast<std::uint32_t>(::getpid())); }

bool is_alive(const ProcessId& process) {
  return process.pid != 0 && process.start_time != 0 && process_id(process.pid) == process;
}

}  // namespace fakecuda
