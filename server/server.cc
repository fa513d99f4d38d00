#include <tensorferry/server/server.h>
#include <tensorferry/transport/fork_guard.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "memory_options.h"
#include "metrics_text.h"
#include "model_repository.h"
#include "model_state.h"

namespace tensorferry::server {

struct Server::Impl {
  std::filesystem::path repository;
  ServerOptions options;
  std::shared_ptr<SegmentAuthority> segments = std::make_shared<SegmentAuthority>();
  std::shared_ptr<Logger> logger;
  const std::uint64_t generation = fork_generation();

  std::mutex control;               // one load, unload or shutdown at a time
  mutable std::shared_mutex mutex;  // guards what follows
  std::map<std::string, std::shared_ptr<ModelState>> models;
  bool closed = false;

  Result<void> alive() const {
    if (fork_generation() != generation) return std::unexpected(void_after_fork({}));
    std::shared_lock lock(mutex);
    if (closed) return failure(ErrorCode::Closed, "the server was shut down");
    return {};
  }

  Result<std::shared_ptr<ModelState>> load(const std::string& name) {
    auto source = find_model(repository, name);
    if (!source) return std::unexpected(source.error());
    for (const std::string& warning : source->warnings) logger->warning(name, warning);
    return ModelState::load({source->config.name, source->directory, source->model_file,
                             source->version, source->config},
                            options, segments, logger);
  }

  // Several at once: importing a model's libraries takes most of the time, each in its own process.
  Result<void> load_all(const std::vector<std::string>& names) {
    std::vector<Result<std::shared_ptr<ModelState>>> results(names.size());
    std::vector<std::thread> loaders;
    loaders.reserve(names.size());
    for (std::size_t i = 0; i < names.size(); ++i) {
      loaders.emplace_back([&, i] { results[i] = load(names[i]); });
    }
    for (std::thread& loader : loaders) loader.join();
    std::string failures;
    Error first;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (results[i]) {
        models[names[i]] = std::move(*results[i]);
        continue;
      }
      if (failures.empty()) first = results[i].error();
      failures += (failures.empty() ? "" : "\n") + std::string("failed to load '") + names[i] +
                  "': " + results[i].error().message;
    }
    if (failures.empty()) return {};
    first.message = failures;
    return std::unexpected(std::move(first));
  }

  std::vector<std::shared_ptr<ModelState>> all() const {
    std::shared_lock lock(mutex);
    std::vector<std::shared_ptr<ModelState>> result;
    result.reserve(models.size());
    for (const auto& [name, model] : models) result.push_back(model);
    return result;
  }
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Server>> Server::start(const std::filesystem::path& repository,
                                              ServerOptions options) {
  auto impl = std::make_unique<Impl>();
  std::error_code error;
  impl->repository = std::filesystem::absolute(repository, error);
  impl->logger = options.logger ? options.logger : stderr_logger();
  if (options.payload.empty()) {
    if (const char* payload = std::getenv("TENSORFERRY_PAYLOAD")) options.payload = payload;
  }
  impl->options = options;
  std::vector<std::string> names;
  if (options.models) {
    names = *options.models;
  } else {
    auto found = list_models(impl->repository);
    if (!found) return std::unexpected(found.error());
    names = std::move(*found);
  }
  if (auto loaded = impl->load_all(names); !loaded) {
    std::vector<std::thread> unloaders;
    for (auto& entry : impl->models) unloaders.emplace_back([&entry] { entry.second->unload({}); });
    for (std::thread& unloader : unloaders) unloader.join();
    return std::unexpected(loaded.error());
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::~Server() {
  // In a forked child the threads and stubs are the parent's: nothing may be joined, finalized or
  // closed.
  if (fork_generation() != impl_->generation) {
    (void)impl_.release();
    return;
  }
  shutdown();
}

Result<Model> Server::model(const std::string& name, std::optional<std::int64_t> version) const {
  if (auto alive = impl_->alive(); !alive) return std::unexpected(alive.error());
  std::shared_lock lock(impl_->mutex);
  auto it = impl_->models.find(name);
  if (it == impl_->models.end()) {
    std::string loaded;
    for (const auto& entry : impl_->models)
      loaded += (loaded.empty() ? "'" : ", '") + entry.first + "'";
    return std::unexpected(
        Error{ErrorCode::NotFound,
              "Request for unknown model: '" + name +
                  "' is not loaded (loaded: " + (loaded.empty() ? "none" : loaded) + ")",
              {name, {}, {}}});
  }
  if (version && *version != it->second->version()) {
    return std::unexpected(Error{ErrorCode::NotFound,
                                 "model '" + name + "' is served in version " +
                                     std::to_string(it->second->version()) + ", not " +
                                     std::to_string(*version),
                                 {name, {}, {}}});
  }
  return Model(it->second);
}

std::vector<std::string> Server::model_names() const {
  std::shared_lock lock(impl_->mutex);
  std::vector<std::string> names;
  names.reserve(impl_->models.size());
  for (const auto& entry : impl_->models) names.push_back(entry.first);
  return names;
}

Result<void> Server::load(const std::string& name) {
  if (auto alive = impl_->alive(); !alive) return alive;
  std::scoped_lock control(impl_->control);
  auto fresh = impl_->load(name);
  if (!fresh) return std::unexpected(fresh.error());
  std::shared_ptr<ModelState> old;
  {
    std::unique_lock lock(impl_->mutex);
    old = std::exchange(impl_->models[name], *fresh);
  }
  if (old) old->unload(impl_->options.drain_timeout);
  return {};
}

Result<void> Server::unload(const std::string& name) {
  if (auto alive = impl_->alive(); !alive) return alive;
  std::scoped_lock control(impl_->control);
  std::shared_ptr<ModelState> old;
  {
    std::unique_lock lock(impl_->mutex);
    auto it = impl_->models.find(name);
    if (it == impl_->models.end())
      return failure(ErrorCode::NotFound, "model '" + name + "' is not loaded");
    old = std::move(it->second);
    impl_->models.erase(it);
  }
  old->unload(impl_->options.drain_timeout);
  return {};
}

bool Server::ready() const noexcept {
  if (!impl_->alive()) return false;
  return std::ranges::all_of(impl_->all(), [](const auto& model) { return model->ready(); });
}

bool Server::ready(const std::string& name) const noexcept {
  auto found = model(name);
  return found && found->ready();
}

std::vector<ModelStatistics> Server::statistics() const {
  std::vector<ModelStatistics> result;
  if (!impl_->alive()) return result;
  for (const auto& model : impl_->all()) result.push_back(model->statistics());
  return result;
}

std::string Server::metrics() const { return metrics_text(statistics(), copy_counts()); }

void Server::shutdown() {
  if (fork_generation() != impl_->generation) return;
  std::scoped_lock control(impl_->control);
  std::map<std::string, std::shared_ptr<ModelState>> models;
  {
    std::unique_lock lock(impl_->mutex);
    impl_->closed = true;
    models.swap(impl_->models);
  }
  std::vector<std::thread> unloaders;
  unloaders.reserve(models.size());
  for (auto& entry : models) {
    unloaders.emplace_back([&] { entry.second->unload(impl_->options.drain_timeout); });
  }
  for (std::thread& unloader : unloaders) unloader.join();
}

}  // namespace tensorferry::server
