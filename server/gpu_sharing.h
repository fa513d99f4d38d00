// How one model shares its memory on one GPU with its stubs: what each of them may try, from the
// best rung on. All chunks of the model are of one share mode, so that a stub that can't map them
// gets its tensors by way of host memory; it costs the others nothing.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/server/statistics.h>
#include <tensorferry/transport/counters.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gpu.h"

namespace tensorferry::server {

// False for TENSORFERRY_GPU_PROBE=off: what the device says of itself is believed.
bool probes_gpus();

// Thread-safe.
class GpuSharing {
 public:
  // The server's half of the probe: the first share mode of the plan by which it can make and
  // export a chunk.
  GpuSharing(const Gpu& gpu, cuda::GpuTransport asked);

  // What stubs climb: attempts of the one share mode.
  const cuda::Plan& plan() const noexcept { return plan_; }
  cuda::ShareMode mode() const noexcept { return mode_; }
  // Whether stubs map its chunks at all.
  bool is_shared() const noexcept { return !plan_.attempts.empty(); }
  // The rung of a stub for which all works.
  const cuda::RungChoice& best() const noexcept { return best_; }
  // For stubs to probe: memory of nobody's. nullptr where nothing is probed.
  const cuda::Chunk* probe_chunk() const noexcept { return probe_chunk_.get(); }

  // A place in it for one probe: another one each time, since a stub may still write to the last.
  std::size_t next_probe_offset() const noexcept;

  // A stub goes by another rung than the best one.
  void set(const std::string& instance, cuda::RungChoice choice);
  void forget(const std::string& instance);
  std::vector<StubTransport> differing() const;
  std::uint64_t changes() const;

 private:
  cuda::Plan plan_;
  cuda::ShareMode mode_ = cuda::ShareMode::LegacyIpc;
  cuda::RungChoice best_;
  std::shared_ptr<cuda::Chunk> probe_chunk_;

  mutable std::atomic<std::size_t> probes_{0};

  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, cuda::RungChoice> differing_;
  std::uint64_t changes_ = 0;
};

}  // namespace tensorferry::server
