#include "trace_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <tensorferry/transport/fork_guard.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "memfd.h"
#include "own_descriptor.h"

namespace tensorferry {
namespace {

constexpr std::chrono::milliseconds kFlushEvery{100};
constexpr std::size_t kEventsPerThread = 512;
constexpr std::size_t kEventBytes = 512;  // of text, at most

struct ThreadBuffer {
  std::mutex mutex;  // guards the rest; taken by its thread and by whoever flushes
  const pid_t tid = ::gettid();
  char name[16] = "main";  // of the thread; the kernel keeps no more
  bool is_named = false;   // in the file
  std::size_t count = 0;
  std::array<TraceEvent, kEventsPerThread> events;
};

std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  }
  return result + '"';
}

// Nanoseconds as microseconds, without rounding them.
struct Microseconds {
  explicit Microseconds(std::uint64_t ns) {
    std::snprintf(text, sizeof text, "%" PRIu64 ".%03u", ns / 1000,
                  static_cast<unsigned>(ns % 1000));
  }
  char text[32];
};

void append(std::string& out, const TraceEvent& event, pid_t tid) {
  char line[kEventBytes];
  const char* name = kPhaseNames[static_cast<std::size_t>(event.phase)];
  const Microseconds begin(event.begin_ns), end(event.end_ns);
  int length = 0;
  if (event.host_wait) {
    length = std::snprintf(
        line, sizeof line,
        R"({"name":"host_wait","cat":"sync","ph":"i","s":"t","ts":%s,"pid":%d,"tid":%d,)"
        R"("args":{"number":%)" PRIu64 R"(,"reason":"%s"}},)"
        "\n",
        begin.text, ::getpid(), tid, event.number, event.host_wait);
  } else if (event.async) {
    constexpr const char* kHalf =
        R"({"name":"%s","cat":"tensorferry","ph":"%c","id2":{"local":"%)" PRIu64
        R"("},"ts":%s,"pid":%d,"tid":%d,"args":{"number":%)" PRIu64 "}},\n";
    length = std::snprintf(line, sizeof line, kHalf, name, 'b', event.number, begin.text,
                           ::getpid(), tid, event.number);
    out.append(line, static_cast<std::size_t>(length));
    length = std::snprintf(line, sizeof line, kHalf, name, 'e', event.number, end.text, ::getpid(),
                           tid, event.number);
  } else {
    const Microseconds took(event.end_ns - event.begin_ns);
    length = std::snprintf(
        line, sizeof line,
        R"({"name":"%s","cat":"tensorferry","ph":"X","ts":%s,"dur":%s,"pid":%d,"tid":%d,)"
        R"("args":{"number":%)" PRIu64 R"(,"bytes":%)" PRIu64 "}},\n",
        name, begin.text, took.text, ::getpid(), tid, event.number, event.bytes);
  }
  out.append(line, static_cast<std::size_t>(length));
}

// How a viewer calls the process or a thread of it.
std::string name_event(const char* what, pid_t tid, std::string_view name) {
  return std::string(R"({"name":")") + what + R"(","ph":"M","pid":)" + std::to_string(::getpid()) +
         R"(,"tid":)" + std::to_string(tid) + R"(,"args":{"name":)" + json_string(name) + "}},\n";
}

// Locks are taken in this order: mutex_, a buffer's, file_mutex_.
class TraceFile final : private ForkParticipant {
 public:
  // Never destroyed: threads may end after main() has.
  static TraceFile& of_process() {
    static auto* one = new TraceFile;
    return *one;
  }

  void start(std::string folder) {
    {
      std::scoped_lock lock(file_mutex_);
      folder_ = std::move(folder);
    }
    fork_registration_ = register_fork_participant(*this);
    std::atexit([] { of_process().flush(); });
  }
  void name(std::string_view process);
  ThreadBuffer* add_buffer();
  void end_buffer(ThreadBuffer* buffer);
  // Under the buffer's lock.
  void write_out(ThreadBuffer& buffer) noexcept;
  void flush() noexcept;

 private:
  void start_flusher();
  void open();
  void write(std::string_view text);
  bool fits(std::size_t more) const noexcept;
  void fail(const std::string& what) noexcept;

  void before_fork() noexcept override;
  void collect(std::vector<Mapping>&) override {}
  void after_fork_parent() noexcept override;
  void after_fork_child() noexcept override;

  std::shared_ptr<void> fork_registration_;

  std::mutex mutex_;  // guards what follows
  std::vector<ThreadBuffer*> buffers_;
  bool flusher_runs_ = false;

  std::mutex file_mutex_;  // guards what follows
  std::string folder_;
  std::string process_ = program_invocation_short_name;
  std::string text_;
  OwnDescriptor file_;
  bool failed_ = false;
};

// A thread's own buffer. Once it has ended nothing more is recorded on it: destructors of other
// thread-locals may still try.
thread_local ThreadBuffer* mine = nullptr;
thread_local bool thread_ended = false;
struct AtThreadsEnd {
  ~AtThreadsEnd() {
    thread_ended = true;
    if (mine) TraceFile::of_process().end_buffer(std::exchange(mine, nullptr));
  }
};

ThreadBuffer* TraceFile::add_buffer() {
  auto* buffer = new ThreadBuffer;
  if (buffer->tid != ::getpid())
    (void)::pthread_getname_np(::pthread_self(), buffer->name, sizeof buffer->name);
  std::scoped_lock lock(mutex_);
  buffers_.push_back(buffer);
  if (!std::exchange(flusher_runs_, true)) start_flusher();
  return buffer;
}

void TraceFile::start_flusher() {
  try {
    std::thread([this] {
      while (true) {
        std::this_thread::sleep_for(kFlushEvery);
        flush();
      }
    }).detach();
  } catch (const std::system_error&) {
    // No room for one more thread just now: buffers are written when they are full and at the end.
    flusher_runs_ = false;
  }
}

void TraceFile::end_buffer(ThreadBuffer* buffer) {
  {
    std::scoped_lock lock(mutex_);
    std::erase(buffers_, buffer);
    std::scoped_lock own(buffer->mutex);
    write_out(*buffer);
  }
  delete buffer;
}

void TraceFile::flush() noexcept {
  std::scoped_lock lock(mutex_);
  for (ThreadBuffer* buffer : buffers_) {
    std::scoped_lock own(buffer->mutex);
    write_out(*buffer);
  }
}

void TraceFile::write_out(ThreadBuffer& buffer) noexcept {
  if (buffer.count == 0) return;
  std::scoped_lock lock(file_mutex_);
  text_.clear();
  if (!std::exchange(buffer.is_named, true))
    text_ += name_event("thread_name", buffer.tid, buffer.name);
  for (std::size_t i = 0; i < buffer.count; ++i) append(text_, buffer.events[i], buffer.tid);
  buffer.count = 0;
  if (file_.get() < 0 && !failed_) open();
  write(text_);
}

void TraceFile::open() {
  std::error_code error;
  std::filesystem::create_directory(folder_, error);
  std::string path = folder_ + "/trace-" + std::to_string(::getpid()) + "-XXXXXX.json";
  UniqueFd fd(::mkostemps(path.data(), 5, O_APPEND | O_CLOEXEC));
  if (!fd) return fail("making a file in '" + folder_ + "': " + std::strerror(errno));
  file_ = OwnDescriptor(std::move(fd));
  write("[\n" + name_event("process_name", ::getpid(), process_));
}

void TraceFile::write(std::string_view text) {
  if (file_.get() >= 0 && !file_.is_ours()) return fail("its file was closed by the program");
  if (file_.get() >= 0 && !fits(text.size()))
    return fail("its file would outgrow what a file may have (ulimit -f)");
  while (file_.get() >= 0 && !text.empty()) {
    const ssize_t written = ::write(file_.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail(std::string("writing: ") + std::strerror(errno));
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Writing past the limit would kill the program (SIGXFSZ).
bool TraceFile::fits(std::size_t more) const noexcept {
  const std::uint64_t limit = file_size_limit();
  if (limit == UINT64_MAX) return true;
  struct stat file{};
  return ::fstat(file_.get(), &file) == 0 &&
         static_cast<std::uint64_t>(file.st_size) + more <= limit;
}

void TraceFile::fail(const std::string& what) noexcept {
  detail::trace_sinks.fetch_and(static_cast<TraceSinks>(~kTraceToFile));
  failed_ = true;
  file_.close();
  std::fprintf(stderr, "tensorferry: the trace of process %d ends: %s\n", ::getpid(), what.c_str());
}

void TraceFile::name(std::string_view process) {
  std::scoped_lock lock(file_mutex_);
  process_ = process;
  if (file_.get() >= 0) write(name_event("process_name", ::getpid(), process_));
}

void TraceFile::before_fork() noexcept {
  mutex_.lock();
  for (ThreadBuffer* buffer : buffers_) buffer->mutex.lock();
  file_mutex_.lock();
}

void TraceFile::after_fork_parent() noexcept {
  file_mutex_.unlock();
  for (ThreadBuffer* buffer : buffers_) buffer->mutex.unlock();
  mutex_.unlock();
}

// What was recorded is the parent's to write, and so is its file; the child begins its own when it
// has something to record. None of the buffers' threads is there, but for this one.
void TraceFile::after_fork_child() noexcept {
  mine = nullptr;
  for (ThreadBuffer* buffer : buffers_) {
    buffer->mutex.unlock();
    delete buffer;
  }
  buffers_.clear();
  flusher_runs_ = false;
  file_.close();
  file_mutex_.unlock();
  mutex_.unlock();
}

}  // namespace

void start_trace_file(std::string folder) {
  std::error_code error;
  // A model may change the working directory.
  auto absolute = std::filesystem::absolute(folder, error);
  TraceFile::of_process().start(error ? std::move(folder) : absolute.string());
}

void flush_trace_file() noexcept { TraceFile::of_process().flush(); }

void name_in_trace_file(std::string_view process) { TraceFile::of_process().name(process); }

void record_in_trace_file(const TraceEvent& event) noexcept {
  if (thread_ended) return;
  if (!mine) {
    static thread_local AtThreadsEnd at_threads_end;
    (void)at_threads_end;
    mine = TraceFile::of_process().add_buffer();
  }
  std::scoped_lock lock(mine->mutex);
  mine->events[mine->count++] = event;
  if (mine->count == mine->events.size()) TraceFile::of_process().write_out(*mine);
}

}  // namespace tensorferry
