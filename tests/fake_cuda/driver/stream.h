// Streams: operations in order, each after what it depends on. Guarded by the driver's lock, except
// where said.
#pragma once

#include "clock.h"
#include "cuda_api.h"
#include "system_page.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace fakecuda {

struct Context;
struct Capture;
struct Stream;

// "After this": operation `sequence` of a stream of this process, or, where `stream` is null,
// record `number` of an event that another process recorded.
struct Point {
  std::shared_ptr<Stream> stream;
  std::uint64_t sequence = 0;
  std::shared_ptr<EventCell> cell;
  std::uint64_t number = 0;
};

// A range of memory that an operation reads or writes.
struct Touch {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  bool writes = false;
};

struct Operation {
  const char* what = "";
  std::function<CUresult()>
      run;  // called without the driver's lock; what fails makes the context's error sticky
  std::vector<Touch> touches;
  std::vector<Point> after;
  bool on_worker = false;  // may block or take the caller's locks: never on a thread of the caller
  bool runs_after_error = false;  // bookkeeping that mustn't get lost
  std::uint64_t sequence = 0;
  std::chrono::steady_clock::time_point due;
};

struct Stream {
  CUstream handle = nullptr;
  std::uint64_t id = 0;  // what cuStreamGetId says, and the checker's timeline
  std::weak_ptr<Context> context;
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  bool is_legacy = false;
  bool is_destroyed = false;

  std::deque<Operation> operations;
  std::uint64_t enqueued = 0;   // sequence of the newest operation
  std::uint64_t completed = 0;  // and of the last one that is done
  std::uint64_t wanted = 0;     // up to here they may run
  bool is_running = false;      // the first operation is being run, without the lock
  int unanswered = 0;           // queries since `wanted` rose
  std::mt19937_64 random;
  std::shared_ptr<Capture> capture;
  std::uint32_t timeline = 0;  // of the checker
  Clock clock{};               // what comes before its next operation

  bool is_blocking() const { return (flags & CU_STREAM_NON_BLOCKING) == 0; }
};

// An event, of this process or opened from another.
struct Event {
  CUevent handle = nullptr;
  std::weak_ptr<Context> context;
  unsigned flags = 0;
  bool is_imported = false;
  SharedEvent* shared = nullptr;  // interprocess
  std::uint64_t shared_key = 0;   // of the event that was opened: another one may lie there later
  std::shared_ptr<EventCell> cell;
  Point last;                                                   // the newest record of this process
  std::shared_ptr<std::chrono::steady_clock::time_point> when;  // the newest record completed
  std::shared_ptr<Capture> capture;  // recorded while its stream was being captured
  int unanswered = 0;
  std::shared_ptr<Clock> clock;  // what comes before the newest record, unless shared

  // The newest record by any process.
  Point newest() const {
    const std::uint64_t number = cell->recorded.load();
    if (number == last.number) return last;
    return {nullptr, 0, cell, number};
  }
};

}  // namespace fakecuda
