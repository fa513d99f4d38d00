// What is told of models and their instances: figures of one moment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tensorferry::server {

struct InstanceStatistics {
  std::string name;
  int pid = 0;        // 0: no stub just now
  std::string state;  // "ready", "starting", "waiting to restart", "stopped"
  std::uint64_t restarts = 0;
  std::size_t pss_bytes = 0;          // of the stub process; 0 where the kernel doesn't tell
  std::size_t arena_bytes = 0;        // segments of the stub's arena, now
  std::size_t arena_peak_bytes = 0;   // the same, at most at one time
  std::size_t answers_out_bytes = 0;  // ranges of its arena that callers hold
};

// A stub whose tensors of a GPU go by other means than its model's others.
struct StubTransport {
  std::string instance;
  std::string transport;
  std::string reason;
};

// A model's arena on one GPU.
struct GpuStatistics {
  int device = 0;  // our ordinal
  std::string uuid;
  std::string transport;             // how its memory is shared with stubs
  std::string transport_reason;      // why not by better means; may be empty
  std::vector<StubTransport> stubs;  // those that go by other means
  std::uint64_t rung_changes = 0;    // how often a stub was found to need other means
  std::size_t arena_bytes_in_use = 0;
  std::size_t arena_bytes = 0;       // its chunks, now
  std::size_t arena_peak_bytes = 0;  // the same, at most at one time
};

struct ModelStatistics {
  std::string name;
  std::int64_t version = 0;
  bool ready = false;
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t executions = 0;         // calls of execute()
  std::uint64_t queue_ns = 0;           // summed over requests
  std::uint64_t execute_ns = 0;         // summed over executions, in the stub
  std::uint64_t total_ns = 0;           // summed over requests: submit to answer
  std::uint64_t stub_copied_bytes = 0;  // payload copied by the stubs
  std::size_t queued = 0;
  std::size_t in_flight = 0;
  std::size_t arena_bytes_in_use = 0;  // of the host arena
  std::size_t arena_bytes = 0;         // its segments, now
  std::size_t arena_peak_bytes = 0;    // the same, at most at one time
  std::size_t arena_pinned_bytes = 0;  // of its segments: those that the driver knows
  std::vector<GpuStatistics> gpus;     // those that its tensors came from, or went to
  std::vector<InstanceStatistics> instances;
};

}  // namespace tensorferry::server
