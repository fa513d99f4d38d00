// What the environment asks of the emulator, read once by cuInit. README.md has the table.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace fakecuda {

enum class Scheduler : std::uint8_t { Eager, Random, Steady, Lazy };

// What the machine can do. A feature may be claimed by its attributes and not work, or the other
// way round.
struct Abilities {
  bool claims_vmm_fd = true, does_vmm_fd = true;
  bool claims_legacy_ipc = true, does_legacy_ipc = true;
  bool claims_event_ipc = true, does_event_ipc = true;
  bool opens_events = true;        // another process's; else as in another PID namespace
  bool sees_opened_events = true;  // else they never complete here, nor there what is recorded here
  bool claims_host_register = true, does_host_register = true;
  bool peer_access = true;
  int version = 13000;
  int init_result = 0;   // what cuInit answers
  bool is_stub = false;  // the toolkit's stub library: every function answers the same
};

struct Settings {
  bool asked_for = false;  // FAKECUDA=1
  bool quiet = false;
  int devices = 2;
  std::uint64_t device_bytes = std::uint64_t{16} << 30;
  std::uint64_t granularity = std::uint64_t{2} << 20;
  Scheduler scheduler = Scheduler::Eager;
  std::uint64_t seed = 0;
  std::uint64_t delay_us =
      500;  // the longest that `random` holds an operation back; `steady`: each

  bool delays() const { return scheduler == Scheduler::Random || scheduler == Scheduler::Steady; }
  int polls = 3;  // unanswered queries of the lazy scheduler before it runs what is asked for
  bool death_completes = false;  // what a dead process had recorded completes (else never)
  bool check_order = true;       // the happens-before checker
  bool reports_leaks = false;    // at exit
  std::string state_folder;      // "": the user's own, and no file remains
  Abilities abilities;
  std::map<std::pair<int, int>, int> attributes;  // (device, attribute) -> value
  std::map<std::pair<int, int>, bool> peers;      // (from, to) -> may access
  std::string visible_devices;
  bool has_visible_devices = false;
  std::string faults;
  std::vector<std::string> complaints;  // what was not understood
};

Settings read_settings();

}  // namespace fakecuda
