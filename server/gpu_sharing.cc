#include "gpu_sharing.h"

#include <tensorferry/cuda/probe.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace tensorferry::server {
namespace {

constexpr std::size_t kProbeChunk = 2 << 20;

void add_reason(std::string& text, const std::string& more) {
  if (!text.empty()) text += "; ";
  text += more;
}

Result<std::shared_ptr<cuda::Chunk>> try_chunk(const Gpu& gpu, cuda::ShareMode mode) {
  auto chunk = cuda::Chunk::create(gpu.context(), kProbeChunk, mode);
  if (!chunk) return chunk;
  auto handle = (*chunk)->export_handle();
  if (!handle) return std::unexpected(handle.error());
  return chunk;
}

const Counter& changes_counter() {
  static const Counter counter = Counters::of_process().add("gpu_rung_changes");
  return counter;
}

}  // namespace

bool probes_gpus() {
  const char* value = std::getenv("TENSORFERRY_GPU_PROBE");
  return !value || std::string_view(value) != "off";
}

GpuSharing::GpuSharing(const Gpu& gpu, cuda::GpuTransport asked)
    : plan_(cuda::plan_rungs(gpu.device(), asked)) {
  const bool probes = probes_gpus();
  while (!plan_.attempts.empty()) {
    mode_ = plan_.attempts.front().mode;
    auto chunk = probes ? try_chunk(gpu, mode_) : nullptr;
    const auto of_mode = [this](const cuda::Attempt& one) { return one.mode == mode_; };
    if (chunk) {
      std::erase_if(plan_.attempts, std::not_fn(of_mode));
      probe_chunk_ = std::move(*chunk);
      break;
    }
    add_reason(plan_.reason, std::string(to_string(plan_.attempts.front().rung)) +
                                 " failed: " + chunk.error().message);
    std::erase_if(plan_.attempts, of_mode);
  }
  if (plan_.attempts.empty()) mode_ = cuda::ShareMode::LegacyIpc;  // memory as it comes
  best_ = {plan_.attempts.empty() ? plan_.last : plan_.attempts.front().rung, plan_.reason};
}

std::size_t GpuSharing::next_probe_offset() const noexcept {
  return probes_.fetch_add(1) * cuda::kProbeBytes % kProbeChunk;
}

void GpuSharing::set(const std::string& instance, cuda::RungChoice choice) {
  changes_counter().add();
  std::scoped_lock lock(mutex_);
  ++changes_;
  differing_.insert_or_assign(instance, std::move(choice));
}

void GpuSharing::forget(const std::string& instance) {
  std::scoped_lock lock(mutex_);
  differing_.erase(instance);
}

std::vector<StubTransport> GpuSharing::differing() const {
  std::scoped_lock lock(mutex_);
  std::vector<StubTransport> result;
  result.reserve(differing_.size());
  for (const auto& [instance, choice] : differing_)
    result.push_back({instance, std::string(to_string(choice.rung)), choice.reason});
  return result;
}

std::uint64_t GpuSharing::changes() const {
  std::scoped_lock lock(mutex_);
  return changes_;
}

}  // namespace tensorferry::server
