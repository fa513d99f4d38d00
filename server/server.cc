#include <tensorferry/server/server.h>
#include <tensorferry/server/void_after_fork.h>
#include <tensorferry/transport/trace.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <stop_token>
#include <thread>

#include "metrics_text.h"
#include "model_repository.h"
#include "model_slot.h"
#include "model_state.h"
#include "parallel.h"
#include "payload.h"

namespace tensorferry::server {

namespace {

// Importing a model's libraries takes most of the time of a load, each in its own process.
std::size_t models_at_a_time() { return std::max(8u, 2 * std::thread::hardware_concurrency()); }

Error shut_down() { return {ErrorCode::Closed, "the server was shut down", {}}; }

}  // namespace

struct Server::Impl {
  std::filesystem::path repository;
  ServerOptions options;
  ServerParts parts;
  const Home home;

  std::shared_mutex changing;  // shared by what loads or unloads, shutdown()'s alone
  std::stop_source stop_loading;
  std::thread trimmer;

  mutable std::shared_mutex mutex;  // guards what follows
  std::map<std::string, std::shared_ptr<ModelSlot>> models;
  std::map<std::string, std::shared_ptr<std::mutex>> by_name;  // one change of a model at a time
  bool closed = false;

  Result<void> alive() const {
    if (auto here = home.check(); !here) return here;
    std::shared_lock lock(mutex);
    if (closed) return std::unexpected(shut_down());
    return {};
  }

  std::shared_ptr<std::mutex> mutex_of(const std::string& name) {
    std::unique_lock lock(mutex);
    auto& one = by_name[name];
    if (!one) one = std::make_shared<std::mutex>();
    return one;
  }

  // Until `stop` is asked, by the caller or by shutdown().
  Result<std::shared_ptr<ModelState>> load(const std::string& name, const std::stop_token& stop) {
    auto source = find_model(repository, name);
    if (!source) return std::unexpected(source.error());
    for (const std::string& warning : source->warnings) parts.logger->warning(name, warning);
    std::stop_source either;
    auto stop_it = [&either] { either.request_stop(); };
    std::stop_callback by_caller(stop, stop_it), by_shutdown(stop_loading.get_token(), stop_it);
    return ModelState::load({source->config.name, source->directory, source->model_file,
                             source->version, source->config},
                            options, parts, either.get_token());
  }

  Result<void> load_all(const std::vector<std::string>& names) {
    std::vector<Result<std::shared_ptr<ModelState>>> results(names.size());
    in_parallel(names.size(), models_at_a_time(),
                [&](std::size_t i) { results[i] = load(names[i], options.stop); });
    std::string failures;
    Error first;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (results[i]) {
        models[names[i]] = std::make_shared<ModelSlot>(std::move(*results[i]));
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
    for (const auto& [name, slot] : models) result.push_back(slot->state());
    return result;
  }

  static void unload(const std::vector<std::shared_ptr<ModelState>>& states,
                     std::chrono::milliseconds drain_timeout) {
    in_parallel(states.size(), models_at_a_time(),
                [&](std::size_t i) { states[i]->unload(drain_timeout); });
  }

  // Idle memory goes back while nothing happens; the thread sleeps when that is done.
  void trim_idle_models() {
    auto nothing_happens = [this] {
      return std::ranges::all_of(all(), [](const auto& one) { return one->unused_since_trim(); });
    };
    while (parts.watch->wait(options.trim_after, nothing_happens)) {
      for (const auto& model : all()) model->trim_when_idle();
    }
  }
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Server>> Server::start(const std::filesystem::path& repository,
                                              ServerOptions options) {
  name_traced_process("server");
  auto impl = std::make_unique<Impl>();
  std::error_code error;
  impl->repository = std::filesystem::absolute(repository, error);
  impl->parts.logger = options.logger ? options.logger : stderr_logger();
  auto payload = find_payload(options.payload);
  if (!payload) return std::unexpected(payload.error());
  options.payload = std::move(*payload);
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
    Impl::unload(impl->all(), {});
    return std::unexpected(loaded.error());
  }
  try {
    if (options.trim_after.count() > 0)
      impl->trimmer = std::thread([one = impl.get()] { one->trim_idle_models(); });
  } catch (const std::system_error& none) {
    Impl::unload(impl->all(), {});
    return failure(ErrorCode::System, std::string("a thread for the server: ") + none.what());
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::~Server() {
  // In a forked child the threads and stubs are the parent's: nothing may be joined, finalized or
  // closed.
  if (!impl_->home.is_here()) {
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
  const std::int64_t served = it->second->state()->version();
  if (version && *version != served) {
    return std::unexpected(Error{ErrorCode::NotFound,
                                 "model '" + name + "' is served in version " +
                                     std::to_string(served) + ", not " + std::to_string(*version),
                                 {name, {}, {}}});
  }
  return Model(it->second);
}

Result<void> Server::check_process() const { return impl_->home.check(); }

std::vector<std::string> Server::model_names() const {
  std::vector<std::string> names;
  if (!impl_->alive()) return names;
  std::shared_lock lock(impl_->mutex);
  names.reserve(impl_->models.size());
  for (const auto& entry : impl_->models) names.push_back(entry.first);
  return names;
}

Result<void> Server::load(const std::string& name, const std::stop_token& stop) {
  if (auto alive = impl_->alive(); !alive) return alive;
  auto one_at_a_time = impl_->mutex_of(name);
  std::scoped_lock control(*one_at_a_time);
  std::shared_lock changing(impl_->changing);
  if (auto alive = impl_->alive(); !alive) return alive;
  auto fresh = impl_->load(name, stop);
  if (!fresh) return std::unexpected(impl_->alive() ? fresh.error() : shut_down());
  std::shared_ptr<ModelState> old;
  {
    std::unique_lock lock(impl_->mutex);
    auto& slot = impl_->models[name];
    if (slot) {
      old = slot->replace(*fresh);
    } else {
      slot = std::make_shared<ModelSlot>(*fresh);
    }
  }
  if (old) old->unload(impl_->options.drain_timeout);
  return {};
}

Result<void> Server::unload(const std::string& name) {
  if (auto alive = impl_->alive(); !alive) return alive;
  auto one_at_a_time = impl_->mutex_of(name);
  std::scoped_lock control(*one_at_a_time);
  std::shared_lock changing(impl_->changing);
  std::shared_ptr<ModelSlot> slot;
  {
    std::unique_lock lock(impl_->mutex);
    auto it = impl_->models.find(name);
    if (it == impl_->models.end())
      return failure(ErrorCode::NotFound, "model '" + name + "' is not loaded");
    slot = std::move(it->second);
    impl_->models.erase(it);
  }
  slot->state()->unload(impl_->options.drain_timeout);
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
  if (!impl_->home.is_here()) return;
  {
    std::unique_lock lock(impl_->mutex);
    impl_->closed = true;
  }
  impl_->stop_loading.request_stop();
  impl_->parts.watch->stop();
  std::unique_lock alone(impl_->changing);
  if (impl_->trimmer.joinable()) impl_->trimmer.join();
  Impl::unload(impl_->all(), impl_->options.drain_timeout);
  std::unique_lock lock(impl_->mutex);
  impl_->models.clear();
}

}  // namespace tensorferry::server
