#include "settings.h"

#include "cuda_api.h"
#include "text.h"

#include <cstdlib>

namespace fakecuda {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

void read_number(const char* name, std::uint64_t& value, std::vector<std::string>& complaints) {
  const std::string text = variable(name);
  if (text.empty()) return;
  if (auto number = parse_number(text))
    value = *number;
  else
    complaints.push_back(std::string(name) + "=" + text + " is no number");
}

void read_scheduler(Settings& settings) {
  const std::string text = variable("FAKECUDA_SCHED");
  if (text.empty() || text == "eager") return;
  if (text == "lazy" || text == "steady") {
    settings.scheduler = text == "lazy" ? Scheduler::Lazy : Scheduler::Steady;
    return;
  }
  const auto parts = split(text, ':');
  const auto seed = parts.size() == 2 ? parse_number(parts[1]) : std::nullopt;
  if (parts[0] == "random" && seed) {
    settings.scheduler = Scheduler::Random;
    settings.seed = *seed;
    return;
  }
  settings.complaints.push_back("FAKECUDA_SCHED=" + text +
                                " is none of eager, lazy, steady, random:SEED");
}

// Named by what a program sees, since what WSL, Tegra or MIG do differs between their versions.
bool apply_profile(const std::string& profile, Abilities& can) {
  if (profile.empty() || profile == "full") return true;
  if (profile == "attributes_lie") {
    can.does_vmm_fd = can.does_legacy_ipc = can.does_event_ipc = false;
  } else if (profile == "no_vmm") {
    can.claims_vmm_fd = can.does_vmm_fd = false;
  } else if (profile == "events_only") {
    can.claims_vmm_fd = can.does_vmm_fd = can.claims_legacy_ipc = can.does_legacy_ipc = false;
  } else if (profile == "no_ipc_events") {
    can.claims_event_ipc = can.does_event_ipc = false;
  } else if (profile == "foreign_events_fail") {
    can.opens_events = false;
  } else if (profile == "foreign_events_stall") {
    can.sees_opened_events = false;
  } else if (profile == "no_ipc") {
    can.claims_vmm_fd = can.does_vmm_fd = can.claims_legacy_ipc = can.does_legacy_ipc = false;
    can.claims_event_ipc = can.does_event_ipc = false;
  } else if (profile == "no_register") {
    can.claims_vmm_fd = can.does_vmm_fd = can.claims_legacy_ipc = can.does_legacy_ipc = false;
    can.claims_event_ipc = can.does_event_ipc = false;
    can.claims_host_register = can.does_host_register = false;
  } else if (profile == "no_p2p") {
    can.peer_access = false;
  } else if (profile == "old_driver") {
    can.version = 11020;
  } else if (profile == "no_driver") {
    can.init_result = CUDA_ERROR_NO_DEVICE;
  } else if (profile == "toolkit_stub") {
    can.init_result = CUDA_ERROR_STUB_LIBRARY;
    can.is_stub = true;
  } else {
    return false;
  }
  return true;
}

// "dev:attr=value,..." and "from-to:0|1,...".
void read_attributes(Settings& settings) {
  for (const auto& item : split(variable("FAKECUDA_ATTR"), ',')) {
    const auto sides = split(item, '=');
    const auto key = split(sides[0], ':');
    const auto device = key.size() == 2 ? parse_number(key[0]) : std::nullopt;
    const auto attribute = key.size() == 2 ? parse_number(key[1]) : std::nullopt;
    const auto value = sides.size() == 2 ? parse_number(sides[1]) : std::nullopt;
    if (device && attribute && value)
      settings.attributes[{static_cast<int>(*device), static_cast<int>(*attribute)}] =
          static_cast<int>(*value);
    else
      settings.complaints.push_back("FAKECUDA_ATTR: " + item + " is not DEVICE:ATTRIBUTE=VALUE");
  }
}

void read_peers(Settings& settings) {
  for (const auto& item : split(variable("FAKECUDA_P2P"), ',')) {
    const auto sides = split(item, ':');
    const auto pair = split(sides[0], '-');
    const auto from = pair.size() == 2 ? parse_number(pair[0]) : std::nullopt;
    const auto to = pair.size() == 2 ? parse_number(pair[1]) : std::nullopt;
    if (from && to && sides.size() == 2)
      settings.peers[{static_cast<int>(*from), static_cast<int>(*to)}] = sides[1] == "1";
    else
      settings.complaints.push_back("FAKECUDA_P2P: " + item + " is not FROM-TO:0 or FROM-TO:1");
  }
}

}  // namespace

Settings read_settings() {
  Settings settings;
  settings.asked_for = variable("FAKECUDA") == "1";
  settings.quiet = variable("FAKECUDA_QUIET") == "1";
  std::uint64_t devices = 2, polls = 3, version = 0;
  read_number("FAKECUDA_DEVICES", devices, settings.complaints);
  read_number("FAKECUDA_MEMORY", settings.device_bytes, settings.complaints);
  read_number("FAKECUDA_GRANULARITY", settings.granularity, settings.complaints);
  read_number("FAKECUDA_DELAY_US", settings.delay_us, settings.complaints);
  read_number("FAKECUDA_POLLS", polls, settings.complaints);
  read_scheduler(settings);
  if (!apply_profile(variable("FAKECUDA_PROFILE"), settings.abilities))
    settings.complaints.push_back("FAKECUDA_PROFILE=" + variable("FAKECUDA_PROFILE") +
                                  " is no profile");
  read_number("FAKECUDA_VERSION", version, settings.complaints);
  if (version != 0) settings.abilities.version = static_cast<int>(version);
  settings.devices = static_cast<int>(devices);
  settings.polls = static_cast<int>(polls);
  settings.death_completes = variable("FAKECUDA_DEATH") == "complete";
  settings.check_order = variable("FAKECUDA_CHECK") != "0";
  settings.reports_leaks = variable("FAKECUDA_LEAKS") == "1";
  settings.state_folder = variable("FAKECUDA_STATE");
  settings.has_visible_devices = std::getenv("CUDA_VISIBLE_DEVICES") != nullptr;
  settings.visible_devices = variable("CUDA_VISIBLE_DEVICES");
  settings.faults = variable("FAKECUDA_FAIL");
  read_attributes(settings);
  read_peers(settings);
  return settings;
}

}  // namespace fakecuda
