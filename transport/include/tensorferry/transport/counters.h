// Counters that can be looked at from outside: numbers with a name and labels, in one memfd of the
// process ("tensorferry-counters") that others may map to read. It has no name in a file system: a
// reader finds it through /proc/PID/fd, so it sees what it could also debug, and nothing else.
//
// Counting is one relaxed atomic add. What a page says is for people and tools; the process that
// owns it believes none of it.
#pragma once

#include <tensorferry/transport/error.h>

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tensorferry {

// ------------------------------------------------------------------------------------- the layout
// 0               | CounterPageHeader
// 256 * (1 + i)   | CounterSlot i, for each i < used; the rest are zeros
// Integers are the machine's own. A change of it is kCounterPageVersion + 1.
inline constexpr const char* kCounterPageName = "tensorferry-counters";        // the memfd's
inline constexpr std::uint64_t kCounterPageMagic = 0x73'72'65'74'6e'75'6f'63;  // "counters"
inline constexpr std::uint32_t kCounterPageVersion = 1;
inline constexpr std::size_t kCounterSlots = 255;
inline constexpr std::size_t kCounterTextBytes = 240;

struct CounterPageHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t slot_bytes;
  std::atomic<std::uint32_t> used;  // slots that are complete; never falls
  std::uint32_t reserved[59];
};

struct alignas(64) CounterSlot {  // a cache line of its own for what is written all the time
  std::atomic<std::uint64_t> value;
  std::uint32_t text_bytes;
  std::uint32_t reserved;
  // The name, then key and value of each label, a NUL after each. What is too long is cut.
  char text[kCounterTextBytes];
};

struct CounterPage {
  CounterPageHeader header;
  CounterSlot slots[kCounterSlots];
};
static_assert(sizeof(CounterPageHeader) == 256 && offsetof(CounterPageHeader, used) == 16);
static_assert(sizeof(CounterSlot) == 256 && offsetof(CounterSlot, text) == 16);
static_assert(sizeof(CounterPage) == 64 << 10 && offsetof(CounterPage, slots) == 256);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// ---------------------------------------------------------------------------------------- writing
// A handle, valid as long as the Counters that gave it. Any thread.
class Counter {
 public:
  void add(std::uint64_t amount = 1) const noexcept {
    value_->fetch_add(amount, std::memory_order_relaxed);
  }
  std::uint64_t value() const noexcept { return value_->load(std::memory_order_relaxed); }

 private:
  friend class Counters;
  explicit Counter(std::atomic<std::uint64_t>& value) : value_(&value) {}
  std::atomic<std::uint64_t>* value_;
};

struct CounterLabel {
  std::string_view key, value;
};

// A page and what is in it. Thread-safe. A forked child counts on in private memory, from what its
// parent had counted; its counters can't be seen from outside.
class Counters {
 public:
  // The process's own, made when it is first asked for; never destroyed.
  static Counters& of_process();

  // Of `slots` counters, at most kCounterSlots. Where no memfd can be had the counters count in
  // ordinary memory.
  explicit Counters(std::size_t slots = kCounterSlots);
  ~Counters();
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  // The counter of that name and these labels, the same one each time: a model that is loaded again
  // counts on. A full page gives one in ordinary memory, which "counters_without_room" tells.
  // Takes a lock and may allocate: ask once, keep the handle.
  Counter add(std::string_view name, std::initializer_list<CounterLabel> labels = {});

  int fd() const noexcept;  // -1: nobody else can see this page

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// ---------------------------------------------------------------------------------------- reading
struct CounterSample {
  std::string name;
  std::vector<std::pair<std::string, std::string>> labels;  // key, value
  std::uint64_t value = 0;
};

// What the page behind `fd` says. Believes nothing: it maps only a sealed memfd of the right size,
// and texts have bounds and no control characters (they may not be UTF-8). Error: Protocol.
Result<std::vector<CounterSample>> read_counter_page(int fd);
// What all pages of a process say, in their order; equal counters are added up (a process may have
// the library twice). Errors: NotFound (no such process, or it has no page), System (we may not
// look into it), Protocol. Blocks for a few system calls.
Result<std::vector<CounterSample>> read_process_counters(pid_t pid);

}  // namespace tensorferry
