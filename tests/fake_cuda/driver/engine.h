// Runs operations. Three schedulers decide when: at once, after a random delay, or only when
// something forces them. One worker thread runs what may block and what becomes possible later; all
// else runs on the thread that made it possible.
#pragma once

#include "settings.h"
#include "stream.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

namespace fakecuda {

using Lock = std::unique_lock<std::mutex>;

class Engine {
 public:
  Engine(const Settings& settings, System& system) : settings_(settings), system_(system) {}

  std::shared_ptr<Stream> add_stream(const std::shared_ptr<Context>& context, int device,
                                     unsigned flags, int priority, bool is_legacy);
  const std::vector<std::shared_ptr<Stream>>& streams() const { return streams_; }

  // Enqueues, after what a stream's kind demands (legacy default stream), and runs what may run.
  Point submit(Lock& lock, const std::shared_ptr<Stream>& stream, Operation operation);
  // Lets `point` and all that it depends on run. Does not wait.
  void force(Lock& lock, const Point& point);
  // Forces and waits.
  void wait(Lock& lock, const Point& point);
  bool is_done(const Point& point) const;
  // A query: under the lazy scheduler a few in a row force. `unanswered` is the asker's own count.
  bool query(Lock& lock, const Point& point, int& unanswered);
  Point newest(const std::shared_ptr<Stream>& stream) const {
    return {stream, stream->enqueued, nullptr, 0};
  }

  // Forces all streams and runs what can run.
  void advance(Lock& lock);
  std::uint64_t pending() const;
  // Does an operation that isn't complete read or write there?
  bool is_touched(std::uint64_t address, std::uint64_t size) const;
  // Drops what a dead context had enqueued.
  void abandon(Stream& stream);
  // A record on an interprocess event: other processes may force it.
  void watch(const Point& record);

 private:
  // All that its first operation needs is there, but for its delay.
  bool is_ready(const Stream& stream, bool is_worker) const;
  bool may_run(const Stream& stream, bool is_worker) const;
  void want(const std::shared_ptr<Stream>& stream, std::uint64_t sequence);
  void want(const Point& point);
  void drain(Lock& lock, bool is_worker);
  void run_first(Lock& lock, const std::shared_ptr<Stream>& stream);
  void start_worker();
  void kick();
  void work();
  void look_at_requests();
  std::chrono::nanoseconds until_next_due() const;

  const Settings& settings_;
  System& system_;
  std::vector<std::shared_ptr<Stream>> streams_;
  std::vector<Point> watched_;
  std::condition_variable changed_;
  std::uint64_t streams_made_ = 0;
  bool has_worker_ = false;
};

}  // namespace fakecuda
