// What all processes on the emulated machine share, in one file: who is there, how much of each
// device's memory they have taken, and the interprocess events. All fields are atomic; a process
// may be killed between any two stores.
#pragma once

#include "clock.h"
#include "process.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace fakecuda {

inline constexpr int kMaxDevices = 16;
inline constexpr int kMaxProcesses = 128;
inline constexpr int kMaxEvents = 8192;
inline constexpr std::size_t kMaxSites = 32768;

// An event's records are numbered from 1. Record n is complete once done[n % size] >= n, so that up
// to eight may be under way at once and complete in any order.
struct EventCell {
  std::atomic<std::uint64_t> recorded{0};
  std::array<std::atomic<std::uint64_t>, 8> done{};
  std::atomic<std::uint64_t> forced{
      0};  // the newest record that another process's wait legally forces
  std::atomic<std::uint64_t> completed_at{0};  // the last time, in steady_clock's nanoseconds
  std::atomic<std::uint32_t> recorder{0};      // process that recorded last
  std::atomic<std::uint64_t> recorder_start_time{0};

  bool is_done(std::uint64_t number) const {
    return number == 0 || done[number % 8].load() >= number;
  }
  void complete(std::uint64_t number) { done[number % 8].store(number); }
};

struct SharedEvent {
  std::atomic<std::uint32_t> owner{0};  // slot of the creating process, plus 1
  std::atomic<std::uint32_t> pid{0};
  std::atomic<std::uint64_t> key{0};  // never the same twice
  EventCell cell;
  SharedClock clock;  // what comes before its newest record
};

struct Timeline {
  std::atomic<std::uint32_t> pid{0};  // of the process that it belongs to
  std::atomic<std::uint64_t> start_time{0};
  std::atomic<std::uint32_t> first{0};  // what came up to here was a dead owner's
  std::atomic<std::uint32_t> epoch{0};
  std::atomic<std::uint32_t> retired{0};  // its stream is gone: another may go on with it

  ProcessId owner() const { return {pid.load(), start_time.load()}; }
};

struct ProcessSlot {
  std::atomic<std::uint32_t> pid{0};
  std::atomic<std::uint32_t> wake{0};       // futex of the process's worker
  std::atomic<std::uint32_t> listening{0};  // its worker waits for other processes
  std::atomic<std::uint64_t> start_time{0};
  std::array<std::atomic<std::uint64_t>, kMaxDevices> device_bytes{};
};

struct SystemPage {
  std::atomic<std::uint64_t> magic;
  std::atomic<std::uint64_t> serial;
  std::atomic<std::uint32_t> next_event;
  std::array<ProcessSlot, kMaxProcesses> processes;
  std::array<SharedEvent, kMaxEvents> events;
  std::array<Timeline, kTimelines> timelines;
  SharedClock host_clock;  // what some host thread has seen complete
  std::atomic<std::uint32_t> next_site;
  std::array<std::array<char, 192>, kMaxSites> sites;
};

// This process's view of the page.
class System {
 public:
  // Maps the page in `folder` and takes a slot in it. What can't be had is said on stderr and
  // replaced by memory of this process alone.
  void open(const std::string& folder);

  SystemPage& page() { return *page_; }
  ProcessSlot& self() { return page_->processes[slot_]; }
  // Who this process is; its slot says so too.
  ProcessId id() { return {self().pid.load(), self().start_time.load()}; }
  bool is_slot_alive(std::uint32_t slot) const;

  // Bytes of a physical device that all live processes have taken.
  std::uint64_t device_bytes(int device) const;

  SharedEvent* take_event();
  void wake_listeners();  // other processes' workers look at their events

 private:
  void take_slot();

  SystemPage* page_ = nullptr;
  std::uint32_t slot_ = 0;
};

// /dev/shm/fakecuda-<uid>, made if it isn't there.
std::string default_state_folder();

}  // namespace fakecuda
