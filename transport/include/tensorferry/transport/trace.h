// Spans: how long each step of a crossing took, on both sides, under the same number. They go to
// whoever looks: to NVTX, when a tool such as nsys is attached (domain "tensorferry", payload: the
// number; TENSORFERRY_NVTX=0 keeps them away), and to files for Chrome's and Perfetto's viewer when
// TENSORFERRY_TRACE names a folder (trace_file.h). Both are decided when the library is loaded, and
// files can be asked for later too. When nobody looks a span is one relaxed load: no allocation, no
// system call, no clock.
//
// The number is a request's, which the server gives (Execution::number()), or a batch's, which is
// that of its first request. So one request alone has one number everywhere. What is done on a
// device goes by the number of the span that it is in; 0: in none.
#pragma once

#include <tensorferry/transport/error.h>
#include <array>
#include <atomic>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tensorferry {

// The steps, in their order. On the server's side Submit, Queue and Wait are per request, all else
// is per batch.
enum class Phase : std::uint8_t {
  Submit,   // server: a caller's request is queued, and sent where a stub waits for it
  Queue,    // server: submitted, and not yet taken for a batch
  Send,     // server: the batch's message is put together and written
  Wait,     // server: a caller waits for its answer (and may read it for others)
  Receive,  // stub: the message becomes requests
  Execute,  // stub: the model's execute()
  Collect,  // stub: what it returned is looked at; what can't move is copied
  Settle,   // stub: Python has let go; decides what moves and copies the rest
  Respond,  // stub: the answer is written
  Answer,   // server: the answer becomes responses
  // On either side:
  CopyD2D,     // a copy within devices is put on a stream, which is not the copy itself
  CopyD2H,     // the same, to the host
  CopyH2D,     // and from there
  WaitDevice,  // a thread waits for what is on a stream
  PollDone,    // server: the poller looks for the end of what a batch left on streams
};
inline constexpr std::array<const char*, 15> kPhaseNames{
    "submit",  "queue",  "send", "wait", "receive", "execute",     "collect",  "settle",
    "respond", "answer", "d2d",  "d2h",  "h2d",     "wait_device", "poll_done"};

// As a number: that of the innermost span that the thread is in.
inline constexpr std::uint64_t kOfEnclosingSpan = UINT64_MAX;

// Where spans go just now; 0: nowhere.
using TraceSinks = std::uint8_t;
inline constexpr TraceSinks kTraceToNvtx = 1, kTraceToFile = 2;
namespace detail {
extern std::atomic<TraceSinks> trace_sinks;
}
inline TraceSinks trace_sinks() noexcept {
  return detail::trace_sinks.load(std::memory_order_relaxed);
}

// Whether this build can speak to NVTX tools.
bool trace_knows_nvtx() noexcept;
// Writes spans to files in `folder` from now on, as TENSORFERRY_TRACE does from the start. Those
// that are open just now are left out. Once per process; error: AlreadyExists where it has written
// some.
Result<void> trace_to_files(std::string folder);
// No more of them; what has been recorded is in the file.
void end_trace() noexcept;
// What viewers call this process, e.g. the model instance. Otherwise the program's name.
void name_traced_process(std::string_view name);

// A thread of a request stops for a device, which the path is made to avoid: a mark of NVTX's
// category "sync", and an instant event in the file. `reason` is text that lasts.
namespace detail {
void mark_host_wait(const char* reason) noexcept;
}
inline void mark_host_wait(const char* reason) noexcept {
  if (trace_sinks() != 0) detail::mark_host_wait(reason);
}

// From its construction to its end, on one thread; spans of a thread nest.
class Span {
 public:
  Span(Phase phase, std::uint64_t number, std::uint64_t bytes = 0) noexcept
      : sinks_(trace_sinks()) {
    if (sinks_ != 0) begin(phase, number, bytes);
  }
  ~Span() {
    if (sinks_ != 0) end();
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

  // Whether somebody looks: then it is worth finding out how many bytes it is about.
  explicit operator bool() const noexcept { return sinks_ != 0; }
  void set_bytes(std::uint64_t bytes) noexcept { bytes_ = bytes; }

 private:
  void begin(Phase phase, std::uint64_t number, std::uint64_t bytes) noexcept;
  void end() noexcept;

  TraceSinks sinks_;
  Phase phase_;  // this and what follows is set only where somebody looks
  std::uint64_t number_;
  std::uint64_t bytes_;
  std::uint64_t outer_number_;
  std::uint64_t begin_ns_;
};

// The same for what begins on one thread and ends on another. One thread at a time.
class AsyncSpan {
 public:
  AsyncSpan() = default;
  ~AsyncSpan() { end(); }
  AsyncSpan(const AsyncSpan&) = delete;
  AsyncSpan& operator=(const AsyncSpan&) = delete;

  void begin(Phase phase, std::uint64_t number) noexcept {
    sinks_ = trace_sinks();
    if (sinks_ != 0) really_begin(phase, number);
  }
  void end() noexcept {  // once; more often does nothing
    if (sinks_ != 0) really_end();
  }

 private:
  void really_begin(Phase phase, std::uint64_t number) noexcept;
  void really_end() noexcept;

  TraceSinks sinks_ = 0;
  Phase phase_{};
  std::uint64_t number_ = 0;
  std::uint64_t begin_ns_ = 0;
  std::uint64_t nvtx_range_ = 0;
};

}  // namespace tensorferry
