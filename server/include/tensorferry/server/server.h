// The embedded server: loads a repository of models and runs requests on them, in this process and
// its stubs.
#pragma once

#include <tensorferry/server/model.h>
#include <tensorferry/server/options.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace tensorferry::server {

// Thread-safe. After a fork the child's Server is void: what can fail fails with Closed and says so
// (check_process() does nothing else), what can't tells of no model, and shutdown() and the
// destructor touch nothing of the parent's. No lock is taken that was held at the fork.
class Server {
 public:
  // Loads the models (in parallel) and waits until all are ready. An error names each model that
  // failed to load; then nothing is left running.
  static Result<std::unique_ptr<Server>> start(const std::filesystem::path& repository,
                                               ServerOptions options = {});
  ~Server();  // shutdown()
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // A loaded model; the version that is served. NotFound says what is loaded.
  Result<Model> model(const std::string& name, std::optional<std::int64_t> version = {}) const;
  std::vector<std::string> model_names() const;
  // Closed in a process that was forked from the one that started it.
  Result<void> check_process() const;

  // Loads a model, or loads it anew: the new instances are ready before the old ones drain. Blocks;
  // when `stop` is asked meanwhile it fails with Cancelled, and what was loaded stays.
  Result<void> load(const std::string& name, const std::stop_token& stop = {});
  // Drains and ends the model's stubs; requests that come later fail with NotFound. Blocks until
  // they are reaped.
  Result<void> unload(const std::string& name);
  bool ready() const noexcept;  // every loaded model is
  bool ready(const std::string& name) const noexcept;

  std::vector<ModelStatistics> statistics() const;
  std::string metrics() const;  // Prometheus text format, families tensorferry_*

  // Refuses new requests, waits for those in flight up to drain_timeout, finalizes and reaps the
  // stubs.
  void shutdown();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tensorferry::server
