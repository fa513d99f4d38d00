#include <pthread.h>
#include <tensorferry/transport/trace.h>

#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string>
#include <utility>

#include "nvtx_sink.h"
#include "trace_file.h"

namespace tensorferry {
namespace {

// Of the innermost span; set only where somebody looks.
thread_local std::uint64_t number_here = 0;

std::uint64_t now_ns() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

TraceSinks sinks_of_environment() noexcept {
  TraceSinks sinks = 0;
  const char* folder = std::getenv("TENSORFERRY_TRACE");
  if (folder && *folder) {
    start_trace_file(folder);
    sinks |= kTraceToFile;
  }
  const char* nvtx = std::getenv("TENSORFERRY_NVTX");
  if (!(nvtx && std::string_view(nvtx) == "0") && nvtx_sink::start()) {
    sinks |= kTraceToNvtx;
    // A tool's own threads are not there in a forked child.
    ::pthread_atfork(nullptr, nullptr,
                     [] { detail::trace_sinks.fetch_and(static_cast<TraceSinks>(~kTraceToNvtx)); });
  }
  return sinks;
}

}  // namespace

// Decided while the library is loaded, when no other thread and no fork can come in between.
std::atomic<TraceSinks> detail::trace_sinks{sinks_of_environment()};

bool trace_knows_nvtx() noexcept { return nvtx_sink::is_built(); }

Result<void> trace_to_files(std::string folder) {
  static std::mutex mutex;
  std::scoped_lock lock(mutex);
  static bool started = (trace_sinks() & kTraceToFile) != 0;
  if (std::exchange(started, true))
    return failure(ErrorCode::AlreadyExists,
                   "this process has a trace already (TENSORFERRY_TRACE, or an earlier call)");
  start_trace_file(std::move(folder));
  detail::trace_sinks.fetch_or(kTraceToFile);
  return {};
}

void end_trace() noexcept {
  if (detail::trace_sinks.fetch_and(static_cast<TraceSinks>(~kTraceToFile)) & kTraceToFile)
    flush_trace_file();
}

void name_traced_process(std::string_view name) {
  if (trace_sinks() & kTraceToFile) name_in_trace_file(name);
}

void Span::begin(Phase phase, std::uint64_t number, std::uint64_t bytes) noexcept {
  phase_ = phase;
  number_ = number == kOfEnclosingSpan ? number_here : number;
  outer_number_ = std::exchange(number_here, number_);
  bytes_ = bytes;
  if (sinks_ & kTraceToNvtx) nvtx_sink::push(phase, number_);
  if (sinks_ & kTraceToFile) begin_ns_ = now_ns();
}

void Span::end() noexcept {
  number_here = outer_number_;
  if (sinks_ & kTraceToFile)
    record_in_trace_file({phase_, false, number_, bytes_, begin_ns_, now_ns()});
  if (sinks_ & kTraceToNvtx) nvtx_sink::pop();
}

void detail::mark_host_wait(const char* reason) noexcept {
  const TraceSinks sinks = tensorferry::trace_sinks();
  if (sinks & kTraceToNvtx) nvtx_sink::mark_host_wait(reason, number_here);
  if (!(sinks & kTraceToFile)) return;
  const std::uint64_t now = now_ns();
  record_in_trace_file({Phase::WaitDevice, false, number_here, 0, now, now, reason});
}

void AsyncSpan::really_begin(Phase phase, std::uint64_t number) noexcept {
  phase_ = phase;
  number_ = number;
  if (sinks_ & kTraceToNvtx) nvtx_range_ = nvtx_sink::begin(phase, number);
  if (sinks_ & kTraceToFile) begin_ns_ = now_ns();
}

void AsyncSpan::really_end() noexcept {
  if (sinks_ & kTraceToFile) record_in_trace_file({phase_, true, number_, 0, begin_ns_, now_ns()});
  if (sinks_ & kTraceToNvtx) nvtx_sink::end(nvtx_range_);
  sinks_ = 0;
}

}  // namespace tensorferry
