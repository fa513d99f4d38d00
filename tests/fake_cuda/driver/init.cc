// cuInit, and what every call goes through.
#include "api.h"
#include "faults.h"
#include "text.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <thread>

namespace fakecuda {
namespace {

std::atomic<Driver*>& instance() {
  static std::atomic<Driver*> pointer{nullptr};
  return pointer;
}

std::mutex& init_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::atomic<bool> deinitialised{false};

// What processes left that were killed, in the folder that nobody reads.
void remove_pages_of_the_dead(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const auto pid = parse_number(entry.path().stem().string());
    if (entry.path().extension() == ".fakecuda" && pid &&
        process_id(static_cast<std::uint32_t>(*pid)).start_time == 0)
      std::filesystem::remove(entry.path(), ignored);
  }
}

Driver* make_driver(Settings settings) {
  auto* made = new Driver(std::move(settings));
  made->pid = static_cast<std::uint32_t>(::getpid());
  const bool keeps = !made->settings.state_folder.empty();
  const std::string folder = keeps ? made->settings.state_folder : default_state_folder();
  if (!keeps) remove_pages_of_the_dead(folder);
  made->system.open(folder);
  open_process_page(folder);
  made->devices = visible_devices(made->settings);
  if (!made->space.open()) {
    std::fputs("fakecuda: the kernel gives no address space for device memory\n", stderr);
    std::abort();
  }
  return made;
}

void greet(const Settings& settings) {
  for (const auto& complaint : settings.complaints)
    std::fprintf(stderr, "fakecuda: %s\n", complaint.c_str());
  if (!settings.quiet)
    std::fputs(
        "fakecuda: this is an EMULATED CUDA driver: no GPU, no kernels, no timings mean anything\n",
        stderr);
}

}  // namespace

Driver& driver() { return *instance().load(std::memory_order_acquire); }

bool is_initialised() {
  const Driver* made = instance().load(std::memory_order_acquire);
  return made != nullptr && made->pid == static_cast<std::uint32_t>(::getpid());
}

CUresult initialise() {
  std::lock_guard lock(init_mutex());
  if (instance().load() != nullptr)
    return is_initialised() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
  Settings settings = read_settings();
  if (!settings.asked_for) {
    std::fputs(
        "fakecuda: this libcuda.so.1 is tensorferry's emulated driver, for tests; without "
        "FAKECUDA=1 it has no "
        "device\n",
        stderr);
    return CUDA_ERROR_NO_DEVICE;
  }
  auto faults = parse_faults(settings.faults);
  if (!faults)
    settings.complaints.push_back("FAKECUDA_FAIL=" + settings.faults + " is not understood");
  greet(settings);
  if (settings.abilities.init_result != CUDA_SUCCESS)
    return static_cast<CUresult>(settings.abilities.init_result);
  if (visible_devices(settings).empty()) return CUDA_ERROR_NO_DEVICE;
  set_faults(faults.value_or(std::vector<Fault>{}));
  instance().store(make_driver(std::move(settings)), std::memory_order_release);
  return CUDA_SUCCESS;
}

CUresult enter(std::size_t function, const char* name, Need need) {
  process_page().functions[function].calls.fetch_add(1, std::memory_order_relaxed);
  count(&fakecuda_counters::driver_calls);
  if (need != Need::Nothing) {
    if (!is_initialised())
      return read_settings().abilities.is_stub ? CUDA_ERROR_STUB_LIBRARY
                                               : CUDA_ERROR_NOT_INITIALIZED;
    if (deinitialised) return CUDA_ERROR_DEINITIALIZED;
  }
  const Verdict verdict = judge(name);
  if (verdict.delay.count() > 0) std::this_thread::sleep_for(verdict.delay);
  while (verdict.hangs) std::this_thread::sleep_for(std::chrono::hours(1));
  return verdict.result;
}

CUresult find_context(Call& call) {
  if (CUresult missing = current_context(call.context); missing != CUDA_SUCCESS) return missing;
  return call.context->error;
}

CUresult context_error(const std::weak_ptr<Context>& context) {
  const auto found = context.lock();
  return found ? found->error : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

// The driver's own end of life: what still calls afterwards (destructors of other libraries) is
// told so.
__attribute__((destructor)) static void end_of_process() {
  if (!is_initialised()) return;
  deinitialised = true;
  if (driver().settings.reports_leaks) report_leaks();
  if (driver().settings.state_folder.empty()) remove_process_page();
}

}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuInit(unsigned int flags) {
  return bare_api(__func__, [&] { return flags != 0 ? CUDA_ERROR_INVALID_VALUE : initialise(); });
}

FAKECUDA_API cuDriverGetVersion(int* version) {
  return bare_api(__func__, [&] {
    if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Settings settings = is_initialised() ? driver().settings : read_settings();
    if (settings.abilities.is_stub) return CUDA_ERROR_STUB_LIBRARY;
    *version = settings.abilities.version;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuGetExportTable(const void** table, const CUuuid*) {
  return bare_api(__func__, [&] {
    if (table != nullptr) *table = nullptr;
    return CUDA_ERROR_NOT_SUPPORTED;  // undocumented; NVIDIA's own runtime asks for it and gives up
  });
}

// There is no profiler to start.
extern "C" __attribute__((visibility("default"))) CUresult cuProfilerStart(void) {
  return api(__func__, Need::Context, [](Call&) { return CUDA_SUCCESS; });
}
extern "C" __attribute__((visibility("default"))) CUresult cuProfilerStop(void) {
  return api(__func__, Need::Context, [](Call&) { return CUDA_SUCCESS; });
}

extern "C" uint64_t fakecuda_advance(void) {
  if (!is_initialised()) return 0;
  Lock lock(driver().mutex);
  driver().engine.advance(lock);
  return driver().engine.pending();
}

extern "C" uint64_t fakecuda_pending(void) {
  if (!is_initialised()) return 0;
  Lock lock(driver().mutex);
  return driver().engine.pending();
}
