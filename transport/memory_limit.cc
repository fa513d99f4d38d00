#include <tensorferry/transport/memory_limit.h>

#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace tensorferry {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kLargestMargin = 64 << 20;
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;  // v1 says "unlimited" by a huge number
constexpr std::size_t kShare = 4;

std::optional<std::uint64_t> read_number(const fs::path& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

std::uint64_t read_field(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  for (std::uint64_t value = 0; file >> key >> value;) {
    if (key == name) return value;
  }
  return 0;
}

struct Names {
  const char* limit;
  const char* used;
  const char* inactive;  // the field of memory.stat: page cache that goes first
};
constexpr Names kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr Names kV2{"memory.max", "memory.current", "inactive_file"};

// The cgroup and all its ancestors below `root`.
void collect(const fs::path& root, const std::string& path, const Names& names,
             std::vector<MemoryLimit>& limits) {
  fs::path relative = fs::path(path).relative_path();
  while (true) {
    fs::path group = root / relative;
    if (auto limit = read_number(group / names.limit); limit && *limit < kNoLimit) {
      std::uint64_t used = read_number(group / names.used).value_or(0);
      std::uint64_t droppable = read_field(group / "memory.stat", names.inactive);
      limits.push_back({group, *limit, used - std::min(used, droppable)});
    }
    if (relative.empty()) return;
    relative = relative.parent_path();
  }
}

// What the host has: beyond it the kernel kills too. Swap counts as memory.
void collect_host(const fs::path& meminfo, std::vector<MemoryLimit>& limits) {
  std::ifstream file(meminfo);
  std::uint64_t total = 0, available = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string key;
    std::uint64_t kib = 0;
    if (!(fields >> key >> kib)) continue;
    if (key == "MemTotal:" || key == "SwapTotal:") total += kib << 10;
    if (key == "MemAvailable:" || key == "SwapFree:") available += kib << 10;
  }
  if (total > 0) limits.push_back({meminfo, total, total - std::min(total, available)});
}

}  // namespace

std::vector<MemoryLimit> memory_limits(const fs::path& proc_self, const fs::path& cgroup_root) {
  std::vector<MemoryLimit> limits;
  collect_host(proc_self.parent_path() / "meminfo", limits);
  std::ifstream file(proc_self / "cgroup");
  // "4:memory:/path" for v1, "0::/path" for v2. A container may show the host's path and mount only
  // its own part, so the mount's root is always looked at too.
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string id, controllers, path;
    std::getline(fields, id, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      collect(cgroup_root / "memory", path, kV1, limits);
    } else if (controllers.empty()) {
      std::error_code ignored;
      fs::path unified = cgroup_root / "unified";
      collect(fs::exists(unified, ignored) ? unified : cgroup_root, path, kV2, limits);
    }
  }
  return limits;
}

Result<void> check_memory(std::uint64_t bytes, const std::vector<MemoryLimit>& limits) {
  for (const MemoryLimit& limit : limits) {
    std::uint64_t margin = std::min(kLargestMargin, limit.limit / 20);
    std::uint64_t free = limit.limit - std::min(limit.limit, limit.used);
    if (bytes <= free && margin <= free - bytes) continue;
    return failure(ErrorCode::OutOfSharedMemory,
                   "a shared memory segment of " + std::to_string(bytes) +
                       " bytes does not fit: '" + limit.source.string() + "' allows " +
                       std::to_string(limit.limit) + " bytes, " + std::to_string(limit.used) +
                       " are used and " + std::to_string(margin) +
                       " are kept free; raise that limit (of the cgroup or container, or the "
                       "host's memory), or "
                       "lower the arenas' maximum");
  }
  return {};
}

std::size_t default_arena_max_bytes() {
  struct sysinfo info{};
  ::sysinfo(&info);
  std::uint64_t smallest = static_cast<std::uint64_t>(info.totalram) * info.mem_unit;
  for (const MemoryLimit& limit : memory_limits()) smallest = std::min(smallest, limit.limit);
  return static_cast<std::size_t>(smallest / kShare);
}

}  // namespace tensorferry
