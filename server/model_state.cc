#include "model_state.h"

#include <nlohmann/json.hpp>

#include "device_copies.h"
#include "device_hold.h"
#include "execution_env.h"
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

bool inputs_go_to_the_cpu(const ModelConfig& config) {
  auto it = config.parameters.find("FORCE_CPU_ONLY_INPUT_TENSORS");
  return it == config.parameters.end() || it->second != "no";
}

// "TENSORFERRY_EXECUTE_TIMEOUT_S" and the like: seconds, with fractions.
std::chrono::milliseconds seconds_parameter(const ModelConfig& config, const std::string& key) {
  auto it = config.parameters.find(key);
  if (it == config.parameters.end()) return {};
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(std::strtod(it->second.c_str(), nullptr) * 1000));
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
          [this](const Gpu& gpu, const cuda::RungChoice& best) { say_transport(gpu, best); })),
      cpu_inputs_(inputs_go_to_the_cpu(source_.config)) {}

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

std::vector<ModelState::Placement> ModelState::placements() const {
  std::vector<Placement> result;
  const ModelConfig& config = source_.config;
  for (std::size_t group = 0; group < config.instance_groups.size(); ++group) {
    const auto& entry = config.instance_groups[group];
    std::string prefix =
        entry.name.empty() ? source_.name + "_" + std::to_string(group) : entry.name;
    std::vector<std::int64_t> devices(entry.gpus.begin(), entry.gpus.end());
    if (devices.empty()) devices.push_back(0);
    std::size_t number = 0;
    for (std::int64_t device : devices) {
      for (std::int64_t i = 0; i < entry.count; ++i) {
        result.push_back({prefix + "_" + std::to_string(number++), entry.kind, device});
      }
    }
  }
  if (result.empty()) result.push_back({source_.name + "_0_0", "CPU", 0});
  return result;
}

std::string ModelState::initialize_args(const Placement& placement) const {
  nlohmann::json args = {{"model_config", source_.config.json},
                         {"model_instance_kind", placement.kind},
                         {"model_instance_name", placement.name},
                         {"model_instance_device_id", std::to_string(placement.device)},
                         {"model_repository", source_.directory.string()},
                         {"model_version", std::to_string(source_.version)},
                         {"model_name", source_.name}};
  return args.dump();
}

Result<InstanceSpec> ModelState::spec(std::size_t index, const Placement& placement) const {
  auto command = stub_command(source_.config, source_.directory, options_.python, options_.payload);
  if (!command) return std::unexpected(command.error());
  InstanceSpec spec;
  spec.link = {source_.name, placement.name, index, options_.ring_bytes, arena_options(options_)};
  spec.command = std::move(*command);
  spec.model_path = source_.model_file.string();
  spec.args = initialize_args(placement);
  spec.limits = {seconds_parameter(source_.config, "TENSORFERRY_EXECUTE_TIMEOUT_S"),
                 seconds_parameter(source_.config, "TENSORFERRY_SLOW_EXECUTE_S")};
  spec.load_timeout = options_.load_timeout;
  spec.finalize_timeout = options_.finalize_timeout;
  return spec;
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
    scheduler_->fail_queued(closed);
    scheduler_->stop();
  });
}

bool ModelState::ready() const noexcept {
  if (!home_.is_here() || unloading_.load()) return false;
  for (const auto& instance : instances_) {
    if (instance->ready()) return true;
  }
  return false;
}

Result<Buffer> ModelState::allocate(std::size_t bytes) {
  if (auto here = home_.check(source_.name); !here) return std::unexpected(here.error());
  if (bytes < protocol::kInlineBelowBytes) return Buffer::ordinary(bytes);
  auto buffer = host_->allocate(bytes);
  if (!buffer) buffer.error().context.model = source_.name;
  return buffer;
}

// A page at least, so that what is handed out is aligned for whatever the framework does with it.
Result<Buffer> ModelState::allocate(std::size_t bytes, const Device& device) {
  if (device.kind != DeviceKind::Cuda) return allocate(bytes);
  if (auto here = home_.check(source_.name); !here) return std::unexpected(here.error());
  auto arena = gpus_->open(device.id);
  if (!arena) return std::unexpected(in_model(arena.error()));
  if (bytes == 0) return Buffer::shared(nullptr, 0, nullptr, device);
  auto buffer = arena->blocks->allocate(std::max(bytes, protocol::kInlineBelowBytes));
  if (!buffer) return std::unexpected(in_model(buffer.error()));
  return DeviceHold::wrap(arena->gpu, *buffer, bytes);
}

Error ModelState::in_model(Error error) const {
  error.context.model = source_.name;
  return error;
}

Result<std::uintptr_t> ModelState::device_stream(int device) {
  auto arena = gpus_->open(device);
  if (!arena) return std::unexpected(in_model(arena.error()));
  return reinterpret_cast<std::uintptr_t>(arena->gpu->stream());
}

Result<void> ModelState::finish_copies(int device) {
  auto arena = gpus_->open(device);
  if (!arena) return std::unexpected(in_model(arena.error()));
  return arena->gpu->wait(cuda::WaitReason::NoStream);
}

Result<Buffer> ModelState::copy_in(const DeviceSource& source) {
  auto buffer = allocate(source.bytes, {DeviceKind::Cuda, source.device});
  if (!buffer || source.bytes == 0) return buffer;
  auto arena = gpus_->open(source.device);
  if (!arena) return std::unexpected(arena.error());
  if (auto copied = copy_on_device(*arena->gpu, *buffer, source); !copied)
    return std::unexpected(in_model(copied.error()));
  return buffer;
}

// What lies elsewhere (another model's answer, ordinary memory) crosses by the one counted copy.
Result<void> ModelState::place(Tensor& input) {
  if (!input.data.is_cpu()) return place_device_input(input);
  if (input.data.size() < protocol::kInlineBelowBytes || HostBlock::of(input.data, *host_))
    return {};
  auto copy = allocate(input.data.size());
  if (!copy) return std::unexpected(copy.error());
  copy_payload(copy->bytes().data(), input.data.bytes().data(), input.data.size());
  input.data = std::move(*copy);
  return {};
}

Result<void> ModelState::place_device_input(Tensor& input) {
  auto arena = gpus_->open(input.data.device().id);
  if (!arena) return std::unexpected(in_model(arena.error()));
  if (cpu_inputs_) say_where_inputs_go();
  const bool on_host = cpu_inputs_ || arena->sharing->best().rung == cuda::Rung::NoGpu;
  return on_host ? place_on_host(input, *arena) : place_on_device(input, *arena);
}

Result<void> ModelState::place_on_device(Tensor& input, const GpuArena& arena) {
  if (input.data.size() == 0) return {};
  if (HostBlock::of(input.data, *arena.blocks)) {
    auto followed = DeviceHold::follow_users_of(input.data);
    return followed ? followed : std::unexpected(in_model(followed.error()));
  }
  auto copy = copy_in(input.data);
  if (!copy) return std::unexpected(copy.error());
  input.data = std::move(*copy);
  return {};
}

// Complete, since answers are; after what its holders have put on streams since.
Result<Buffer> ModelState::copy_in(const Buffer& on_device) {
  if (auto followed = DeviceHold::follow_users_of(on_device); !followed)
    return std::unexpected(in_model(followed.error()));
  DeviceSource source;
  source.device = on_device.device().id;
  source.address = on_device.bytes().data();
  source.bytes = on_device.size();
  source.keeper = on_device.holder();
  return copy_in(source);
}

// FORCE_CPU_ONLY_INPUT_TENSORS, which is "yes" unless the config says otherwise.
void ModelState::say_where_inputs_go() {
  std::call_once(said_where_inputs_go_, [&] {
    logger_->info(
        source_.name,
        "a caller's device tensor is copied to CPU memory, as in Triton: parameters { key: "
        "\"FORCE_CPU_ONLY_INPUT_TENSORS\" value: { string_value: \"no\" } } in "
        "config.pbtxt leaves it on its device");
  });
}

// Once for each GPU that the model's tensors come from.
void ModelState::say_transport(const Gpu& gpu, const cuda::RungChoice& best) const {
  std::string text = "tensors of " + to_string(gpu.device().uuid) + " cross by " +
                     std::string(to_string(best.rung));
  if (!best.reason.empty()) text += " (" + best.reason + ")";
  logger_->info(source_.name, text);
}

Result<void> ModelState::place_on_host(Tensor& input, const GpuArena& arena) {
  auto copy = allocate(input.data.size());
  if (!copy) return std::unexpected(copy.error());
  auto copied = DeviceHold::follow_users_of(input.data);
  if (copied) copied = copy_to_host(*arena.gpu, copy->bytes(), input.data.bytes().data());
  if (!copied) return std::unexpected(in_model(copied.error()));
  input.data = std::move(*copy);
  return {};
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
  for (Tensor& input : request.inputs) {
    if (auto placed = place(input); !placed) return std::unexpected(placed.error());
  }
  std::shared_ptr<CallState> call = take_call();
  call->prepare(scheduler_, std::move(request), std::move(on_done), deadline);
  call->set_batch_size(batch);
  if (auto queued = scheduler_->submit(call); !queued) {
    call->give_back(request, on_done);
    return std::unexpected(queued.error());
  }
  return call;
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
