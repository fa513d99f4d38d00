#include "site.h"

#include "driver.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <tuple>

namespace fakecuda {
namespace {

struct Range {
  std::uintptr_t begin = 0, end = 0;
};

// Where this library lies.
Range own_range() {
  Range range;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        const auto own = reinterpret_cast<std::uintptr_t>(&site_text);
        Range found{info->dlpi_addr, info->dlpi_addr};
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          if (segment.p_type == PT_LOAD)
            found.end = std::max<std::uintptr_t>(
                found.end, info->dlpi_addr + segment.p_vaddr + segment.p_memsz);
        }
        if (own < found.begin || own >= found.end) return 0;
        *static_cast<Range*>(data) = found;
        return 1;
      },
      &range);
  return range;
}

// The first caller that isn't the emulator itself.
const void* caller() {
  static const Range own = own_range();
  std::array<void*, 24> frames{};
  const int depth = ::backtrace(frames.data(), static_cast<int>(frames.size()));
  for (int i = 0; i < depth; ++i) {
    const auto address = reinterpret_cast<std::uintptr_t>(frames[static_cast<std::size_t>(i)]);
    if (address < own.begin || address >= own.end) return frames[static_cast<std::size_t>(i)];
  }
  return nullptr;
}

// "libtorch_cuda.so+0x1234 (at::copy_)".
std::string place(const void* address) {
  Dl_info info{};
  if (address == nullptr || ::dladdr(address, &info) == 0) return "?";
  std::array<char, 32> offset{};
  const auto from_base =
      reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  std::snprintf(offset.data(), offset.size(), "+0x%llx",
                static_cast<unsigned long long>(from_base));
  const std::string file = info.dli_fname != nullptr ? info.dli_fname : "?";
  std::string text = file.substr(file.rfind('/') + 1) + offset.data();
  if (info.dli_sname != nullptr) text += " (" + std::string(info.dli_sname) + ")";
  return text;
}

}  // namespace

std::uint32_t site_of(Driver& driver, const Stream& stream, const char* what) {
  using Key = std::tuple<std::uint64_t, const void*, std::string>;
  static auto* known = new std::map<Key, std::uint32_t>;  // guarded by the driver's lock
  const void* from = caller();
  const Key key{stream.id, from, what};
  if (auto found = known->find(key); found != known->end()) return found->second;
  auto& page = driver.system.page();
  const std::uint32_t number = page.next_site.fetch_add(1) + 1;
  if (number >= kMaxSites) return 0;
  const std::string name =
      stream.is_legacy ? "the legacy stream" : "stream " + std::to_string(stream.id);
  const std::string text = std::string(what) + " on " + name + " of process " +
                           std::to_string(driver.pid) + " at " + place(from);
  auto& site = page.sites[number];
  std::memcpy(site.data(), text.data(), std::min(text.size(), site.size() - 1));
  return (*known)[key] = number;
}

std::string site_text(System& system, std::uint64_t site) {
  if (site == 0 || site >= kMaxSites) return "an operation whose place is not known";
  return system.page().sites[site].data();
}

}  // namespace fakecuda
