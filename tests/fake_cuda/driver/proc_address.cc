#include "proc_address.h"

#include "api.h"

#include <dlfcn.h>

#include <string>

namespace fakecuda {
namespace {

// This library itself, wherever it lies and whatever else is loaded.
void* self() {
  static void* handle = [] {
    Dl_info info{};
    ::dladdr(reinterpret_cast<void*>(&self), &info);
    return ::dlopen(info.dli_fname, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  }();
  return handle;
}

int driver_version() {
  return is_initialised() ? driver().settings.abilities.version : read_settings().abilities.version;
}

struct Choice {
  const char* symbol = nullptr;
  bool known = false;  // there is such a function, if not for that version
};

// The newest that the caller's version and the driver know.
Choice choose(const std::string& base, int version) {
  Choice choice;
  for (const auto& variant : variants()) {
    if (base != variant.base) continue;
    choice.known = true;
    if (variant.since <= version) choice.symbol = variant.symbol;
  }
  return choice;
}

void* find(const std::string& base, int version, bool per_thread,
           CUdriverProcAddressQueryResult& status) {
  const Choice choice = choose(base, std::min(version, driver_version()));
  status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
  if (choice.known && choice.symbol == nullptr) return nullptr;
  const std::string symbol = choice.known ? choice.symbol : base;
  void* found = nullptr;
  if (per_thread) {
    found = ::dlsym(self(), (symbol + "_ptsz").c_str());
    if (found == nullptr) found = ::dlsym(self(), (symbol + "_ptds").c_str());
  }
  if (found == nullptr) found = ::dlsym(self(), symbol.c_str());
  status = found != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return found;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuGetProcAddress_v2(const char* symbol, void** function, int version, cuuint64_t flags,
                                 CUdriverProcAddressQueryResult* status) {
  return bare_api(__func__, [&] {
    constexpr cuuint64_t kKnown =
        CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    if (symbol == nullptr || function == nullptr || (flags & ~kKnown) != 0)
      return CUDA_ERROR_INVALID_VALUE;
    CUdriverProcAddressQueryResult result{};
    const bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    *function =
        std::string(symbol).starts_with("cu") ? find(symbol, version, per_thread, result) : nullptr;
    if (*function == nullptr && result == CU_GET_PROC_ADDRESS_SUCCESS)
      result = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    if (status != nullptr) *status = result;
    // As documented: the status tells, unless nobody asks for it.
    return *function != nullptr || status != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
  });
}

FAKECUDA_API cuGetProcAddress(const char* symbol, void** function, int version, cuuint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
