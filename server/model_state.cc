#include "model_state.h"

#include <tensorferry/transport/trace.h>

#include "host_pinning.h"
#include "memory_options.h"

namespace tensorferry::server {
namespace {

constexpr std::size_t kPooledCalls = 64;

// Whether nobody else holds it, and what others did with it is seen here. use_count() alone orders
// nothing; to let go of a hold does, with all that were let go of before.
bool held_alone(const std::shared_ptr<CallState>& call) {
  if (call.use_count() != 1) return false;
  std::shared_ptr<CallState>(call).reset();
  return true;
}

SchedulerOptions scheduler_options(const ModelConfig& config, std::size_t max_queue) {
  SchedulerOptions options;
  options.model = config.name;
  options.max_batch_size = config.max_batch_size;
  options.max_queue = max_queue;
  if (config.dynamic_batching && config.max_batch_size > 0) {
    options.dynamic_batching = true;
    options.preferred_batch_sizes = config.dynamic_batching->preferred_batch_size;
    options.max_queue_delay =
        std::chrono::microseconds(config.dynamic_batching->max_queue_delay_us);
    if (config.dynamic_batching->max_queue_size > 0)
      options.max_queue = config.dynamic_batching->max_queue_size;
    options.depth = 1;  // a batch that waits in a stub's ring could have grown here
  }
  return options;
}

}  // namespace

ModelState::ModelState(ModelSource source, const ServerOptions& options, const ServerParts& parts)
    : source_(std::move(source)),
      options_(options),
      segments_(parts.segments),
      logger_(parts.logger),
      host_(std::make_shared<HostArena>(segments_, arena_options(options), parts.watch)),
      gpus_(std::make_shared<GpuArenas>(
          parts.gpus, segments_, gpu_arena_options(source_.config), parts.watch,
          [this,
           pinning = std::make_shared<HostPinning>(source_.name, host_, parts.background, logger_)](
              const Gpu& gpu, const cuda::RungChoice& best) {
            say_transport(gpu, best);
            pinning->begin(gpu.context());
          })),
      inputs_(source_.name, host_, gpus_, logger_),
      placement_(source_.config) {}

Result<std::shared_ptr<ModelState>> ModelState::load(ModelSource source,
                                                     const ServerOptions& options,
                                                     const ServerParts& parts,
                                                     const std::stop_token& stop) {
  std::shared_ptr<ModelState> state(new ModelState(std::move(source), options, parts));
  Result<void> started;
  try {
    std::stop_callback on_stop(stop, [&state] { state->stop_loading(); });
    started = state->start();
  } catch (const std::system_error& error) {  // no thread is to be had
    started = failure(ErrorCode::System, "starting model '" + state->name() + "': " + error.what());
  }
  if (!started) {
    state->unload(std::chrono::milliseconds(0));
    return std::unexpected(started.error());
  }
  return state;
}

ModelState::~ModelState() {
  if (home_.is_here()) unload(std::chrono::milliseconds(0));
}

Result<void> ModelState::add_instance(InstanceSpec spec) {
  std::size_t index = spec.link.index;
  std::scoped_lock lock(loading_mutex_);
  if (loading_stopped_) return failure(ErrorCode::Cancelled, "told to stop while it was loaded");
  instances_.push_back(
      std::make_unique<ModelInstance>(std::move(spec), segments_, ModelMemory{host_, gpus_}, *this,
                                      logger_, [this, index](std::shared_ptr<StubLink> link) {
                                        scheduler_->set_link(index, std::move(link));
                                      }));
  return {};
}

void ModelState::stop_loading() {
  std::scoped_lock lock(loading_mutex_);
  loading_stopped_ = true;
  for (const auto& instance : instances_) instance->request_stop();
}

// The first stub completes the config, then goes on as the first instance; the others start as soon
// as the config is known, beside it.
Result<void> ModelState::start() {
  auto first = spec(0, placements().front());
  if (!first) return std::unexpected(first.error());
  // Shared, since the promise may still be at work when what it promised is known.
  auto known = std::make_shared<std::promise<Result<void>>>();
  first->config_to_complete = source_.config.json;
  first->on_completed = [this, known](Result<std::string> completed) -> Result<std::string> {
    Result<void> outcome =
        completed ? complete_config(*completed) : std::unexpected(completed.error());
    std::string args = outcome ? initialize_args(placements().front()) : "";
    known->set_value(outcome);
    if (!outcome) return std::unexpected(outcome.error());
    return args;
  };
  if (auto added = add_instance(std::move(*first)); !added) return added;
  if (auto outcome = known->get_future().get(); !outcome) return outcome;

  auto all = placements();
  for (std::size_t i = 1; i < all.size(); ++i) {
    auto more = spec(i, all[i]);
    if (!more) return std::unexpected(more.error());
    if (auto added = add_instance(std::move(*more)); !added) return added;
  }
  for (const auto& instance : instances_) {
    if (auto loaded = instance->wait_loaded(); !loaded) return loaded;
  }
  return {};
}

Result<void> ModelState::complete_config(const std::string& completed) {
  auto config = ModelConfig::from_json(completed, source_.name);
  if (!config) return std::unexpected(config.error());
  if (auto placed = placement_.check(*config); !placed) return placed;
  source_.config = std::move(*config);
  try {
    scheduler_ = std::make_shared<Scheduler>(scheduler_options(source_.config, options_.max_queue),
                                             placements().size());
  } catch (const std::system_error& error) {
    return failure(ErrorCode::System,
                   std::string("a thread for the batching delay: ") + error.what());
  }
  return {};
}

void ModelState::unload(std::chrono::milliseconds drain_timeout) {
  std::call_once(unloaded_, [&] {
    unloading_.store(true);
    Error closed{
        ErrorCode::Closed, "model '" + source_.name + "' was unloaded", {source_.name, {}, {}}};
    if (scheduler_) {
      scheduler_->close(closed);
      if (!scheduler_->drain(Clock::now() + drain_timeout)) {
        closed.message += "; the request was still waiting or running when drain_timeout (" +
                          std::to_string(drain_timeout.count()) + " ms) had passed";
        scheduler_->fail_queued(closed);
        for (const auto& instance : instances_) instance->fail_requests(closed);
      }
    }
    for (const auto& instance : instances_) instance->request_stop();
    for (const auto& instance : instances_) instance->join();
    if (!scheduler_) return;
    scheduler_->stop();  // what is queued from now on fails by itself
    scheduler_->fail_queued(closed);
  });
}

bool ModelState::ready() const noexcept {
  if (!home_.is_here() || unloading_.load()) return false;
  for (const auto& instance : instances_) {
    if (instance->ready()) return true;
  }
  return false;
}

// Once for each GPU that the model's tensors come from.
void ModelState::say_transport(const Gpu& gpu, const cuda::RungChoice& best) const {
  std::string text = "tensors of " + to_string(gpu.device().uuid) + " cross by " +
                     std::string(to_string(best.rung));
  if (!best.reason.empty()) text += " (" + best.reason + ")";
  logger_->info(source_.name, text);
}

std::shared_ptr<CallState> ModelState::take_call() {
  std::scoped_lock lock(pool_mutex_);
  if (pool_.empty()) return std::make_shared<CallState>();
  std::shared_ptr<CallState> call = std::move(pool_.back());
  pool_.pop_back();
  return call;
}

void ModelState::recycle(std::shared_ptr<CallState> call) {
  // Whoever still holds it (a stub that runs on after a timeout, a batch on its way) may read and
  // write it: then it goes with the last of them.
  if (!held_alone(call)) return;
  call->recycle();
  std::scoped_lock lock(pool_mutex_);
  if (pool_.size() < kPooledCalls) pool_.push_back(std::move(call));
}

Result<std::shared_ptr<CallState>> ModelState::submit(Request& request,
                                                      std::function<void()>& on_done,
                                                      const Deadline& deadline) {
  if (auto here = home_.check(source_.name); !here) return std::unexpected(here.error());
  std::int64_t batch = 1;
  if (auto fits = check(request, batch); !fits) return std::unexpected(fits.error());
  std::vector<ArrivingInput> arriving;
  if (auto placed = inputs_.place(request.inputs, placement_, arriving); !placed)
    return std::unexpected(placed.error());
  std::shared_ptr<CallState> call = take_call();
  call->prepare(scheduler_, std::move(request), std::move(on_done), deadline);
  call->set_batch_size(batch);
  Span span(Phase::Submit, call->number());
  auto queued = arriving.empty() ? scheduler_->submit(call) : scheduler_->admit(call);
  if (!queued) {
    call->give_back(request, on_done);
    InputMemory::undo(arriving, request.inputs);
    return std::unexpected(queued.error());
  }
  if (!arriving.empty()) queue_when_there(call, std::move(arriving));
  return call;
}

void ModelState::queue_when_there(const std::shared_ptr<CallState>& call,
                                  std::vector<ArrivingInput> arriving) {
  inputs_.start(
      std::move(arriving), call->request().inputs,
      [call, scheduler = scheduler_](Result<void> how) { scheduler->queue(call, std::move(how)); });
}

ModelStatistics ModelState::statistics() const {
  ModelStatistics result;
  result.name = source_.name;
  result.version = source_.version;
  if (!home_.is_here()) return result;
  result.ready = ready();
  SchedulerCounts counts = scheduler_->counts();
  result.succeeded = counts.succeeded;
  result.failed = counts.failed;
  result.cancelled = counts.cancelled;
  result.executions = counts.executions;
  result.queue_ns = counts.queue_ns;
  result.execute_ns = counts.execute_ns;
  result.total_ns = counts.total_ns;
  result.stub_copied_bytes = counts.stub_copied_bytes;
  result.queued = counts.queued;
  result.in_flight = counts.in_flight;
  ArenaStatistics arena = host_->arena().statistics();
  result.arena_bytes_in_use = arena.bytes_in_use;
  result.arena_bytes = arena.segment_bytes;
  result.arena_peak_bytes = arena.peak_segment_bytes;
  result.arena_pinned_bytes = host_->pinned_bytes();
  result.gpus = gpus_->statistics();
  for (const auto& instance : instances_) result.instances.push_back(instance->statistics());
  return result;
}

// Called every few seconds while the model is used: two calls without a use in between are
// idleness.
bool ModelState::trim_when_idle() {
  const std::uint64_t uses = host_->uses();
  if (uses == trimmed_at_) return false;
  if (std::exchange(seen_uses_, uses) != uses || scheduler_->counts().in_flight > 0) return true;
  // The stubs first: what they have given back of the host arena is idle then.
  for (const auto& instance : instances_) instance->trim();
  host_->arena().trim();
  gpus_->trim();
  trimmed_at_ = uses;
  return false;
}

}  // namespace tensorferry::server
