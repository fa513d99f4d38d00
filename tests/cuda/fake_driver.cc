#include "fake_driver.h"

#include <dlfcn.h>
#include <spawn.h>
#include <sys/wait.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/driver.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/probe.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "owned_event.h"
#include "use_emulator.h"

extern char** environ;

namespace tensorferry::cuda {
namespace {

constexpr const char* kInner = "TENSORFERRY_TEST_INNER";

// The function of the emulator in this process; nullptr where there is none.
template <class Function>
Function* emulated(const char* name) {
  if (on_the_machines_driver()) return nullptr;
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  return library ? reinterpret_cast<Function*>(::dlsym(library, name)) : nullptr;
}

std::string own_path() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

}  // namespace

bool on_emulator() {
  return Driver::get() && emulated<decltype(fakecuda_version)>("fakecuda_version");
}

// Marks the test as skipped; it is the caller's to return.
void skip(const std::string& why) { GTEST_SKIP() << why; }

bool emulator_has(const char* what) {
  if (on_emulator()) return true;
  skip(std::string("needs the emulated driver: its ") + what);
  return false;
}

bool has_devices(std::size_t count) {
  const auto found = devices();
  const std::size_t visible = found ? found->size() : 0;
  if (visible >= count) return true;
  skip("needs " + std::to_string(count) + " devices; visible: " + std::to_string(visible));
  return false;
}

fakecuda_counters emulator_counters() {
  fakecuda_counters counters{};
  if (auto* get = emulated<decltype(fakecuda_get_counters)>("fakecuda_get_counters"))
    get(&counters);
  return counters;
}

std::string emulator_reports() {
  auto* get = emulated<decltype(fakecuda_reports)>("fakecuda_reports");
  if (!get) return {};
  std::string text(get(nullptr, 0) + 1, '\0');
  text.resize(get(text.data(), text.size()));
  return text;
}

void clear_emulator_reports() {
  if (auto* clear = emulated<decltype(fakecuda_clear_reports)>("fakecuda_clear_reports")) clear();
}

std::string emulator_holds() {
  auto* get = emulated<decltype(fakecuda_get_live)>("fakecuda_get_live");
  if (!get) return {};
  fakecuda_live live{};
  get(&live);
  std::string text;
  const auto say = [&](const char* what, std::uint64_t count) {
    if (count > 0) text += std::to_string(count) + " " + what + "; ";
  };
  say("allocations", live.allocations);
  say("physical handles", live.physical_handles);
  say("mappings", live.mappings);
  say("reservations", live.reservations);
  say("imports", live.imports);
  say("registrations", live.host_registrations);
  say("streams", live.streams);
  say("events", live.events);
  say("contexts", live.contexts);
  return text;
}

void emulator_fails(const std::string& faults) {
  auto* fail = emulated<decltype(fakecuda_fail)>("fakecuda_fail");
  ASSERT_TRUE(fail);
  ASSERT_EQ(fail(faults.c_str()), 0) << faults;
}

void emulator_advances() {
  if (auto* advance = emulated<decltype(fakecuda_advance)>("fakecuda_advance")) advance();
}

bool in_own_process(Variables variables) {
  if (std::getenv(kInner)) return true;
  for (const auto& [name, value] : variables)
    if (std::string_view(name).starts_with("FAKECUDA") && !emulator_has(name)) return false;
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  std::vector<std::string> environment = {std::string(kInner) + "=1"};
  for (const auto& [name, value] : variables)
    environment.push_back(std::string(name) + "=" + value);
  for (char** each = environ; *each; ++each) {
    const std::string text = *each;
    const bool set = std::ranges::any_of(variables, [&](const auto& variable) {
      return text.starts_with(std::string(variable.first) + "=");
    });
    if (!set && !text.starts_with("GTEST_")) environment.push_back(text);
  }
  std::vector<char*> pointers;
  for (std::string& each : environment) pointers.push_back(each.data());
  pointers.push_back(nullptr);
  std::string program = own_path();
  std::string filter =
      std::string("--gtest_filter=") + info->test_suite_name() + "." + info->name();
  char* arguments[] = {program.data(), filter.data(), nullptr};
  pid_t pid = -1;
  EXPECT_EQ(::posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, pointers.data()), 0);
  int status = -1;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  return false;
}

void GpuTest::SetUp() {
  if (!on_emulator() && !on_the_machines_driver())
    GTEST_SKIP() << "the emulated driver (tests/fake_cuda) was not built";
  auto device = device_by_ordinal(0);
  ASSERT_TRUE(device) << device.error().message;
  auto context = PrimaryContext::retain(*device);
  ASSERT_TRUE(context) << context.error().message;
  context_ = *context;
}

void GpuTest::TearDown() {
  EXPECT_EQ(emulator_reports(), "");
  clear_emulator_reports();
}

GpuTest::~GpuTest() {
  context_.reset();
  EXPECT_EQ(emulator_holds(), "");
}

void finish(const Stream& stream) {
  auto guard = ContextGuard::enter(*stream.context());
  auto event = make_event(false);
  ASSERT_TRUE(event);
  ASSERT_TRUE(record(event->get(), stream.get()));
  ASSERT_TRUE(wait_on_host(event->get(), WaitReason::Probe));
}

void GpuTest::write(DevicePtr at, std::span<const std::byte> bytes) const {
  auto stream = make_stream();
  auto guard = enter();
  ASSERT_TRUE(
      copy_async(at, device_ptr(bytes.data()), bytes.size(), stream.get(), CopyKind::HostToDevice));
  finish(stream);
}

std::vector<std::byte> GpuTest::read(DevicePtr at, std::size_t bytes) const {
  std::vector<std::byte> result(bytes);
  auto stream = make_stream();
  auto guard = enter();
  EXPECT_TRUE(
      copy_async(device_ptr(result.data()), at, bytes, stream.get(), CopyKind::DeviceToHost));
  finish(stream);
  return result;
}

std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed) {
  std::vector<std::byte> result(bytes);
  fill_pattern(result, seed);
  return result;
}

}  // namespace tensorferry::cuda
