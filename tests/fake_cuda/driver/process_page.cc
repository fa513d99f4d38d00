#include "process_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>

namespace fakecuda {
namespace {

constexpr std::uint64_t kMagic = 0x0001'6567'6170'6b66;

constexpr const char* kNames =
    "driver_calls,copies_h2d_pinned,bytes_h2d_pinned,copies_h2d_pageable,bytes_h2d_pageable,"
    "copies_d2h_pinned,bytes_d2h_pinned,copies_d2h_pageable,bytes_d2h_pageable,copies_d2d,bytes_"
    "d2d,"
    "copies_peer,bytes_peer,copies_h2h,bytes_h2h,memsets,kernels,host_functions,graph_launches,"
    "stream_syncs,event_syncs,context_syncs,implicit_syncs,stream_queries,event_queries,stream_"
    "waits,"
    "event_records,streams_created,events_created,contexts_created,ipc_memory_exports,"
    "ipc_memory_opens,ipc_memory_closes,ipc_event_exports,ipc_event_opens,fd_exports,fd_imports,"
    "maps,"
    "unmaps,access_changes,host_registers,host_unregisters,host_allocations,allocations,frees,"
    "device_bytes,device_bytes_peak,reports";

constexpr std::size_t number_of_names() {
  return static_cast<std::size_t>(
             std::count(kNames, kNames + std::string_view(kNames).size(), ',')) +
         1;
}
static_assert(number_of_names() == sizeof(fakecuda_counters) / sizeof(std::uint64_t));

ProcessPage* map_page(int fd) {
  const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* mapped = ::mmap(nullptr, sizeof(ProcessPage), PROT_READ | PROT_WRITE, flags, fd, 0);
  return mapped == MAP_FAILED ? nullptr : static_cast<ProcessPage*>(mapped);
}

std::atomic<ProcessPage*>& page_pointer() {
  static std::atomic<ProcessPage*> page{map_page(-1)};
  return page;
}

std::string& page_path() {
  static auto* path = new std::string;
  return *path;
}

std::atomic_ref<std::uint64_t> at(std::uint64_t fakecuda_counters::* counter) {
  return std::atomic_ref(process_page().counters.*counter);
}

// `file` read whole into `page`, or nothing.
bool read_page(const char* file, ProcessPage& page) {
  const int fd = ::open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const auto got = ::pread(fd, static_cast<void*>(&page), sizeof(page), 0);
  ::close(fd);
  return got == static_cast<ssize_t>(sizeof(page)) && page.magic.load() == kMagic;
}

std::size_t copy_reports(const ProcessPage& page, char* text, std::size_t size) {
  const std::size_t length = std::min<std::size_t>(page.report_bytes.load(), kReportBytes);
  if (size > 0) {
    const std::size_t fits = std::min(length, size - 1);
    std::memcpy(text, page.reports.data(), fits);
    text[fits] = '\0';
  }
  return length;
}

std::uint64_t calls_of(const ProcessPage& page, std::string_view function) {
  for (const auto& entry : page.functions)
    if (entry.state.load() == 2 && function == entry.name.data()) return entry.calls.load();
  return 0;
}

std::mutex& report_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

}  // namespace

ProcessPage& process_page() { return *page_pointer().load(); }

void open_process_page(const std::string& folder) {
  const std::string path = folder + "/" + std::to_string(::getpid()) + ".fakecuda";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (::ftruncate(fd, sizeof(ProcessPage)) == 0) {
    if (ProcessPage* page = map_page(fd)) {
      std::memcpy(static_cast<void*>(page), &process_page(), offsetof(ProcessPage, reports));
      page->pid = static_cast<std::uint32_t>(::getpid());
      page->magic = kMagic;
      page_path() = path;
      page_pointer() = page;
    }
  }
  ::close(fd);
}

void remove_process_page() {
  if (!page_path().empty()) ::unlink(page_path().c_str());
}

void count(std::uint64_t fakecuda_counters::* counter, std::uint64_t by) {
  at(counter).fetch_add(by, std::memory_order_relaxed);
}

void count_down(std::uint64_t fakecuda_counters::* counter, std::uint64_t by) {
  at(counter).fetch_sub(by, std::memory_order_relaxed);
}

std::uint64_t counted(std::uint64_t fakecuda_counters::* counter) { return at(counter).load(); }

std::size_t function_index(std::string_view wanted) {
  auto& functions = process_page().functions;
  for (std::size_t i = 0; i < functions.size(); ++i) {
    auto& entry = functions[i];
    std::uint32_t state = 0;
    if (entry.state.compare_exchange_strong(state, 1)) {
      std::memcpy(entry.name.data(), wanted.data(), std::min(wanted.size(), entry.name.size() - 1));
      entry.state = 2;
      return i;
    }
    while (entry.state.load() == 1) {
    }
    if (wanted.substr(0, entry.name.size() - 1) == entry.name.data()) return i;
  }
  return functions.size() - 1;
}

void report(std::string_view line) {
  std::lock_guard lock(report_mutex());
  count(&fakecuda_counters::reports);
  std::fprintf(stderr, "fakecuda: %.*s\n", static_cast<int>(line.size()), line.data());
  auto& page = process_page();
  const std::uint64_t used = page.report_bytes.load();
  if (used + line.size() + 1 > kReportBytes) return;
  std::memcpy(page.reports.data() + used, line.data(), line.size());
  page.reports[used + line.size()] = '\n';
  page.report_bytes = used + line.size() + 1;
}

}  // namespace fakecuda

using namespace fakecuda;

extern "C" {

int fakecuda_version(void) { return 1; }

const char* fakecuda_counter_names(void) { return kNames; }

void fakecuda_get_counters(fakecuda_counters* counters) {
  auto* from = reinterpret_cast<std::uint64_t*>(&process_page().counters);
  auto* to = reinterpret_cast<std::uint64_t*>(counters);
  for (std::size_t i = 0; i < number_of_names(); ++i) to[i] = std::atomic_ref(from[i]).load();
}

void fakecuda_reset_counters(void) {
  auto* counters = reinterpret_cast<std::uint64_t*>(&process_page().counters);
  const std::uint64_t bytes = counted(&fakecuda_counters::device_bytes);
  for (std::size_t i = 0; i < number_of_names(); ++i) std::atomic_ref(counters[i]).store(0);
  count(&fakecuda_counters::device_bytes, bytes);  // what is there now, not what was counted
  count(&fakecuda_counters::device_bytes_peak, bytes);
  for (auto& entry : process_page().functions) entry.calls = 0;
}

uint64_t fakecuda_calls(const char* function) { return calls_of(process_page(), function); }

int fakecuda_read_counters(const char* file, fakecuda_counters* counters) {
  auto page = std::make_unique<ProcessPage>();
  if (!read_page(file, *page)) return -1;
  *counters = page->counters;
  return 0;
}

uint64_t fakecuda_read_calls(const char* file, const char* function) {
  auto page = std::make_unique<ProcessPage>();
  return read_page(file, *page) ? calls_of(*page, function) : 0;
}

void fakecuda_get_live(fakecuda_live* live) {
  auto* from = reinterpret_cast<std::uint64_t*>(&process_page().live);
  auto* to = reinterpret_cast<std::uint64_t*>(live);
  for (std::size_t i = 0; i < sizeof(fakecuda_live) / sizeof(std::uint64_t); ++i)
    to[i] = std::atomic_ref(from[i]).load();
}

int fakecuda_read_live(const char* file, fakecuda_live* live) {
  auto page = std::make_unique<ProcessPage>();
  if (!read_page(file, *page)) return -1;
  *live = page->live;
  return 0;
}

size_t fakecuda_reports(char* text, size_t size) {
  std::lock_guard lock(report_mutex());
  return copy_reports(process_page(), text, size);
}

size_t fakecuda_read_reports(const char* file, char* text, size_t size) {
  auto page = std::make_unique<ProcessPage>();
  if (!read_page(file, *page)) return 0;
  return copy_reports(*page, text, size);
}

void fakecuda_clear_reports(void) {
  std::lock_guard lock(report_mutex());
  process_page().report_bytes = 0;
}

}  // extern "C"
