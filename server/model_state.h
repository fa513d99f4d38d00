// A loaded model from the inside: its config, its arena, its instances and its queue.
#pragma once

#include <tensorferry/server/model.h>
#include <tensorferry/server/options.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "host_arena.h"
#include "model_instance.h"
#include "scheduler.h"

namespace tensorferry::server {

// What a model is loaded from.
struct ModelSource {
  std::string name;
  std::filesystem::path directory;   // <repository>/<model>
  std::filesystem::path model_file;  // <directory>/<version>/model.py
  std::int64_t version = 1;
  ModelConfig config;  // as written; auto_complete_config may add to it
};

class ModelState final : public InstanceEvents, public std::enable_shared_from_this<ModelState> {
 public:
  // Starts the stubs and waits until all instances are initialised. Blocks; run several in
  // parallel.
  static Result<std::shared_ptr<ModelState>> load(ModelSource source, const ServerOptions& options,
                                                  std::shared_ptr<SegmentAuthority> segments,
                                                  std::shared_ptr<Logger> logger);
  ~ModelState() override;

  // Refuses new requests, waits for those inside, finalizes and reaps. Blocks. Idempotent.
  void unload(std::chrono::milliseconds drain_timeout);

  Result<std::shared_ptr<CallState>> submit(Request&& request, std::function<void()> on_done);
  void recycle(std::shared_ptr<CallState> call);
  Result<Buffer> allocate(std::size_t bytes);

  const std::string& name() const noexcept { return source_.name; }
  std::int64_t version() const noexcept { return source_.version; }
  const ModelConfig& config() const noexcept { return source_.config; }
  bool ready() const noexcept;
  ModelStatistics statistics() const;
  void trim();

  // InstanceEvents, passed on to the scheduler once there is one.
  void batch_done(std::size_t instance) noexcept override { scheduler_->batch_done(instance); }
  void give_back(Batch batch) noexcept override { scheduler_->give_back(std::move(batch)); }
  void executed(std::uint64_t execute_ns, std::uint64_t copied_bytes) noexcept override {
    scheduler_->executed(execute_ns, copied_bytes);
  }

 private:
  ModelState(ModelSource source, const ServerOptions& options,
             std::shared_ptr<SegmentAuthority> segments, std::shared_ptr<Logger> logger);
  struct Placement {  // one instance that the config asks for
    std::string name;
    std::string kind;
    std::int64_t device = 0;
  };
  Result<void> start();
  Result<void> complete_config(const std::string& completed);
  std::vector<Placement> placements() const;
  Result<InstanceSpec> spec(std::size_t index, const Placement& placement) const;
  std::string initialize_args(const Placement& placement) const;
  void add_instance(InstanceSpec spec);
  Result<void> check(const Request& request, std::int64_t& batch) const;
  std::shared_ptr<CallState> take_call();

  ModelSource source_;
  const ServerOptions options_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const std::shared_ptr<Logger> logger_;
  const std::shared_ptr<HostArena> host_;
  std::shared_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<ModelInstance>> instances_;
  std::atomic<bool> unloading_{false};
  std::once_flag unloaded_;
  const std::uint64_t generation_;

  std::mutex pool_mutex_;
  std::vector<std::shared_ptr<CallState>> pool_;
};

}  // namespace tensorferry::server
