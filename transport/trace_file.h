// Spans as a file that chrome://tracing and ui.perfetto.dev read: one per process, named
// FOLDER/trace-PID-XXXXXX.json, in the "JSON array" format: one event a line, its times in
// microseconds of CLOCK_MONOTONIC, so that the files of several processes line up. The array is
// never closed, which the format allows: what was written is valid whenever the process ends.
//
// Threads gather events in buffers of their own, written when full, every tenth of a second, and
// when the thread or the process ends. A process that is killed loses the last tenth at most.
#pragma once

#include <tensorferry/transport/trace.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace tensorferry {

struct TraceEvent {
  Phase phase{};
  bool async = false;  // on a line of its own in the viewer, since it belongs to no thread
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;
  std::uint64_t begin_ns = 0;
  std::uint64_t end_ns = 0;
  const char* host_wait = nullptr;  // a mark of one, by its reason, and no span
};

// Once per process. The folder is made if its parent is there; the file when there
// is something to write. A failure is said once on stderr and ends recording.
void start_trace_file(std::string folder);
void name_in_trace_file(std::string_view process);
void flush_trace_file() noexcept;
// Any thread.
void record_in_trace_file(const TraceEvent& event) noexcept;

}  // namespace tensorferry
