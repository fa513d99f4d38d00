// A loaded model from the inside: its config, its arena, its instances and its queue.
#pragma once

#include <tensorferry/server/model.h>
#include <tensorferry/server/options.h>
#include <tensorferry/server/void_after_fork.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "background.h"
#include "host_arena.h"
#include "input_memory.h"
#include "input_placement.h"
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

// What all models of a server share.
struct ServerParts {
  std::shared_ptr<SegmentAuthority> segments = std::make_shared<SegmentAuthority>();
  std::shared_ptr<Gpus> gpus = std::make_shared<Gpus>();
  std::shared_ptr<IdleWatch> watch = std::make_shared<IdleWatch>();
  std::shared_ptr<Background> background = std::make_shared<Background>();
  std::shared_ptr<Logger> logger;
};

class ModelState final : public InstanceEvents, public std::enable_shared_from_this<ModelState> {
 public:
  // Starts the stubs and waits until all instances are initialised, or `stop` is requested (an
  // error then). Blocks; run several in parallel.
  static Result<std::shared_ptr<ModelState>> load(ModelSource source, const ServerOptions& options,
                                                  const ServerParts& parts,
                                                  const std::stop_token& stop = {});
  ~ModelState() override;

  // Refuses new requests, waits for those inside, finalizes and reaps. What is still inside after
  // `drain_timeout` fails then. Blocks. Idempotent.
  void unload(std::chrono::milliseconds drain_timeout);

  // As Model::submit(), taking request and callback. An error leaves them as they were, but for
  // inputs that moved to this model's arena.
  Result<std::shared_ptr<CallState>> submit(Request& request, std::function<void()>& on_done,
                                            const Deadline& deadline);
  void recycle(std::shared_ptr<CallState> call);
  InputMemory& inputs() noexcept { return inputs_; }

  const std::string& name() const noexcept { return source_.name; }
  std::int64_t version() const noexcept { return source_.version; }
  const ModelConfig& config() const noexcept { return source_.config; }
  bool ready() const noexcept;
  Result<void> check_process() const { return home_.check(source_.name); }
  // In a child of the process that loaded it: its locks may be held for ever, its rings are its
  // parent's.
  bool forked() const noexcept { return !home_.is_here(); }
  ModelStatistics statistics() const;
  // Gives idle memory back if the model was not used since the last call; true when it should be
  // called again after a while. Never waits for a stub. One thread at a time.
  bool trim_when_idle();
  // Whether nothing has happened since trim_when_idle() last looked. Cheap.
  bool unused_since_trim() const noexcept { return host_->uses() == trimmed_at_; }

  // InstanceEvents, passed on to the scheduler once there is one.
  void batch_done(std::size_t instance) noexcept override { scheduler_->batch_done(instance); }
  void give_back(Batch batch) noexcept override { scheduler_->give_back(std::move(batch)); }
  void executed(std::uint64_t execute_ns, std::uint64_t copied_bytes) noexcept override {
    scheduler_->executed(execute_ns, copied_bytes);
  }

 private:
  ModelState(ModelSource source, const ServerOptions& options, const ServerParts& parts);
  struct Placement {  // one instance that the config asks for
    std::string name;
    std::string kind;
    std::int64_t device = 0;
  };
  Result<void> start();
  Result<void> complete_config(const std::string& completed);
  std::vector<Placement> placements() const;
  using Environment = std::map<std::string, std::optional<std::string>>;
  Result<int> choose_gpu(const Placement& placement, Environment& environment) const;
  Result<InstanceSpec> spec(std::size_t index, const Placement& placement) const;
  std::string initialize_args(const Placement& placement) const;
  Result<void> add_instance(InstanceSpec spec);
  void stop_loading();
  Result<void> check(const Request& request, std::int64_t& batch) const;
  Result<void> check_sizes(const Request& request) const;
  std::shared_ptr<CallState> take_call();
  void queue_when_there(const std::shared_ptr<CallState>& call,
                        std::vector<ArrivingInput> arriving);
  void say_transport(const Gpu& gpu, const cuda::RungChoice& best) const;

  ModelSource source_;
  const ServerOptions options_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const std::shared_ptr<Logger> logger_;
  const std::shared_ptr<HostArena> host_;
  const std::shared_ptr<GpuArenas> gpus_;
  InputMemory inputs_;
  const InputPlacement placement_;
  std::shared_ptr<Scheduler> scheduler_;
  std::mutex loading_mutex_;                               // while it loads: guards what follows
  std::vector<std::unique_ptr<ModelInstance>> instances_;  // constant once loaded
  bool loading_stopped_ = false;
  std::atomic<bool> unloading_{false};
  std::once_flag unloaded_;
  const Home home_;

  // The trimming thread's: HostArena::uses() when it last looked, and when it last trimmed.
  std::uint64_t seen_uses_ = 0;
  std::uint64_t trimmed_at_ = 0;

  std::mutex pool_mutex_;
  std::vector<std::shared_ptr<CallState>> pool_;
};

}  // namespace tensorferry::server
