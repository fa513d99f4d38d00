// One instance of a model: a supervisor thread that starts its stub, watches it, and starts it
// again with backoff when it died. Knows neither queue nor repository.
#pragma once

#include <tensorferry/server/statistics.h>
#include <tensorferry/transport/counters.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "restart_policy.h"
#include "stub_session.h"

namespace tensorferry::server {

struct InstanceSpec {
  LinkOptions link;  // names, index, sizes
  StubCommand command;
  std::string model_path;  // of model.py
  std::string args;        // JSON for initialize()
  // Set for the instance that completes the model's config first: the config as it stands, and what
  // makes `args` out of what auto_complete_config returned. Called exactly once, on the
  // supervisor's thread; with an error when the stub failed before that.
  std::string config_to_complete;
  std::function<Result<std::string>(Result<std::string> completed)> on_completed;
  ExecuteLimits limits;
  std::chrono::milliseconds load_timeout{0};
  std::chrono::milliseconds finalize_timeout{30'000};
};

// Thread-safe.
class ModelInstance {
 public:
  // Called with a stub's link when it is ready for batches, and with nullptr when it no longer is.
  using LinkChanged = std::function<void(std::shared_ptr<StubLink>)>;

  ModelInstance(InstanceSpec spec, std::shared_ptr<SegmentAuthority> segments, ModelMemory memory,
                InstanceEvents& events, std::shared_ptr<Logger> logger, LinkChanged link_changed);
  ~ModelInstance();  // stop() and join()
  ModelInstance(const ModelInstance&) = delete;
  ModelInstance& operator=(const ModelInstance&) = delete;

  // The outcome of the first start: ok when the model is initialised. May be asked once.
  Result<void> wait_loaded();
  // Initialised, and its stub not known to be dead: false before a caller reads that it died.
  bool ready() const noexcept;
  // Finalizes the stub; join() waits until it is reaped.
  void request_stop();
  void join();

  InstanceStatistics statistics() const;
  const std::string& name() const noexcept { return spec_.link.instance; }
  // Has the stub give idle memory back. Never waits for it.
  void trim();
  // Fails what its stub has, which runs on.
  void fail_requests(const Error& why);

 private:
  std::shared_ptr<StubLink> link() const;
  void supervise();
  // One life of a stub. True when it was told to stop.
  bool live_once();
  Result<std::unique_ptr<StubSession>> start_session();
  Result<void> load(StubSession& session);
  void report_first(Result<void> outcome);
  bool sleep_unless_stopped(std::chrono::milliseconds time);
  void set_state(const char* state, pid_t pid, std::shared_ptr<StubLink> link);

  InstanceSpec spec_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const ModelMemory memory_;
  InstanceEvents& events_;
  const std::shared_ptr<Logger> logger_;
  const LinkChanged link_changed_;
  const Counter restarts_counter_;
  UniqueFd stop_;  // eventfd

  std::promise<Result<void>> first_;
  bool first_reported_ = false;   // supervisor's thread
  RestartPolicy restart_policy_;  // supervisor's thread
  std::atomic<bool> ready_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> restarts_{0};

  mutable std::mutex mutex_;  // guards what follows
  const char* state_ = "starting";
  pid_t pid_ = 0;
  std::shared_ptr<StubLink> link_;

  std::thread supervisor_;
};

}  // namespace tensorferry::server
