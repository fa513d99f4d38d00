#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/gpu_error.h>

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "driver_api.h"
#include "driver_call.h"

namespace tensorferry::cuda {
namespace {

enum class State : std::uint8_t { Unknown, Loading, Loaded, Absent };
std::atomic<State> state{State::Unknown};
std::atomic<const DriverApi*> process_api{nullptr};
std::atomic<bool> forked{false};

// Of a parent that was just loading the child can't know how far it had come.
void note_fork_in_child() {
  const State was = state.load(std::memory_order_relaxed);
  if (was == State::Loading || was == State::Loaded) forked.store(true, std::memory_order_relaxed);
}

std::unexpected<Error> forked_failure() { return driver_failure("fork", abi::kNotInitialized); }

struct CloseLibrary {
  void operator()(void* library) const noexcept { ::dlclose(library); }
};
using Library = std::unique_ptr<void, CloseLibrary>;

// Fills the table. Returns the first required name that the library lacks; nullptr when it has all.
const char* find_entries(void* library, DriverApi& api) {
  const char* missing = nullptr;
  api.for_each([&]<EntryName Name, class Signature>(Entry<Name, Signature>& each) {
    each.function = reinterpret_cast<Signature*>(::dlsym(library, each.kName));
    if (!each.function && !missing && !is_optional(each.kName)) missing = each.kName;
  });
  return missing;
}

bool switched_off() {
  const char* value = std::getenv("TENSORFERRY_CUDA");
  return value && std::string_view(value) == "off";
}

Result<std::unique_ptr<const Driver>> load_for_process() {
  ::pthread_atfork(nullptr, nullptr, note_fork_in_child);
  state = State::Loading;
  Result<std::unique_ptr<const Driver>> driver =
      switched_off() ? gpu_failure(GpuErrorKind::Off, "TENSORFERRY_CUDA=off")
                     : Driver::load("libcuda.so.1");
  if (driver) process_api = &(*driver)->api();
  state = driver ? State::Loaded : State::Absent;
  return driver;
}

}  // namespace

const DriverApi* loaded_api() noexcept { return process_api.load(std::memory_order_acquire); }

bool forked_after_cuda() noexcept { return forked.load(std::memory_order_relaxed); }

Driver::Driver(std::unique_ptr<const DriverApi> api, DriverInfo info) noexcept
    : api_(std::move(api)), info_(info) {}
Driver::~Driver() = default;

Result<const Driver*> Driver::get() {
  if (forked_after_cuda()) return forked_failure();
  // Never destroyed: threads may use it until the very end.
  static const auto& driver = *new Result<std::unique_ptr<const Driver>>(load_for_process());
  if (!driver) return std::unexpected(driver.error());
  return driver->get();
}

Result<std::unique_ptr<const Driver>> Driver::load(const std::string& name) {
  Library library(::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!library) {
    const char* why = ::dlerror();
    return gpu_failure(GpuErrorKind::DriverMissing, why ? why : name);
  }
  auto api = std::make_unique<DriverApi>();
  const char* missing = find_entries(library.get(), *api);
  auto* get_version = function_of<"cuDriverGetVersion">(*api);
  auto* init = function_of<"cuInit">(*api);
  DriverInfo info;
  if (get_version && init) {
    // Once called, a driver has state, threads and handlers of its own: it is never unloaded.
    (void)library.release();
    if (int code = get_version(&info.version); code != abi::kSuccess)
      return driver_failure("cuDriverGetVersion", code, api.get());
    if (info.version < kOldestDriver) {
      return gpu_failure(GpuErrorKind::DriverTooOld, "the driver is for CUDA " +
                                                         std::to_string(info.version / 1000) + "." +
                                                         std::to_string(info.version % 1000 / 10) +
                                                         "; 11.4 (R470) or later is needed");
    }
  }
  if (missing)
    return gpu_failure(GpuErrorKind::Unsupported, name + " has no " + std::string(missing) +
                                                      ", so it is no CUDA driver that we can use");
  int code = init(0);
  if (code == abi::kSuccess) code = function_of<"cuDeviceGetCount">(*api)(&info.devices);
  if (code != abi::kSuccess && code != abi::kNoDevice)
    return driver_failure("cuInit", code, api.get());
  return std::unique_ptr<const Driver>(new Driver(std::move(api), info));
}

}  // namespace tensorferry::cuda
