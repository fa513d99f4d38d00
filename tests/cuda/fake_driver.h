// The emulated driver as tests see it: its counters, reports and faults
// (tests/fake_cuda/fakecuda.h), and the fixture of all tests that need a GPU. They run on the
// emulator, or on this machine's driver where ./dev gpu-test says so; without either they skip.
#pragma once

#include <gtest/gtest.h>
#include <tensorferry/cuda/context.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>

#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fakecuda.h"

namespace tensorferry::cuda {

// False: this process has no driver, or one that counts as real (use_emulator.h).
bool on_emulator();
// The same, and where it is false the test is marked as skipped, with what it would have needed:
//   if (!emulator_has("counters")) return;
bool emulator_has(const char* what);
// So many devices are visible; where not, the test is marked as skipped.
bool has_devices(std::size_t count);
fakecuda_counters emulator_counters();
// What it found wrong: undefined behaviour, unordered access. Empty: nothing.
std::string emulator_reports();
void clear_emulator_reports();
// FUNCTION:WHEN:WHAT, as FAKECUDA_FAIL; "" for none.
void emulator_fails(const std::string& faults);
// Runs what can run.
void emulator_advances();

// True in a process of its own, made for this test and started with these variables set besides; in
// the first process false, after it has ended and its result was asserted:
//   if (!in_own_process({{"FAKECUDA_PROFILE", "no_vmm"}})) return;
// What only the emulator understands makes the test skip where there is none.
using Variables = std::initializer_list<std::pair<const char*, const char*>>;
bool in_own_process(Variables variables = {});

// What this process has of the driver's and hasn't given back: "" for nothing, else what, with
// numbers.
std::string emulator_holds();

// A test that needs a device. Fails where the emulator has reported something, and where anything
// of the driver's is left when all of the test's members are gone.
class GpuTest : public testing::Test {
 protected:
  ~GpuTest() override;
  void SetUp() override;
  void TearDown() override;

  const ContextPtr& context() const { return context_; }
  // For calls that need the context current.
  ContextGuard enter() const { return *ContextGuard::enter(*context_); }
  Stream make_stream() const { return *Stream::create(context_); }
  // Copies through a stream, and waits.
  void write(DevicePtr at, std::span<const std::byte> bytes) const;
  std::vector<std::byte> read(DevicePtr at, std::size_t bytes) const;

 private:
  ContextPtr context_;
};

// All that is on the stream is done.
void finish(const Stream& stream);

std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed);

}  // namespace tensorferry::cuda
