#include "site.h"

#include "driver.h"

#include <dlfcn.h>
#include <execinfo.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <tuple>

namespace fakecuda {
namespace {

const void* own_base() {
  static const void* base = [] {
    Dl_info info{};
    ::dladdr(reinterpret_cast<const void*>(&site_text), &info);
    return static_cast<const void*>(info.dli_fbase);
  }();
  return base;
}

// The first caller that isn't the emulator itself.
const void* caller() {
  std::array<void*, 24> frames{};
  const int depth = ::backtrace(frames.data(), static_cast<int>(frames.size()));
  for (int i = 0; i < depth; ++i) {
    Dl_info info{};
    if (::dladdr(frames[static_cast<std::size_t>(i)], &info) != 0 && info.dli_fbase != own_base())
      return frames[static_cast<std::size_t>(i)];
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
