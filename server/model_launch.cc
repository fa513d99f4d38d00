// What the instances of a model are started with.
#include <nlohmann/json.hpp>

#include "execution_env.h"
#include "memory_options.h"
#include "model_state.h"
#include "visible_devices.h"

namespace tensorferry::server {
namespace {

// "TENSORFERRY_EXECUTE_TIMEOUT_S" and the like: seconds, with fractions.
std::chrono::milliseconds seconds_parameter(const ModelConfig& config, const std::string& key) {
  auto it = config.parameters.find(key);
  if (it == config.parameters.end()) return {};
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(std::strtod(it->second.c_str(), nullptr) * 1000));
}

}  // namespace

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

// Our ordinal of the instance's GPU, which may be none of those that its stub is let see: an error
// only where somebody means it.
Result<int> ModelState::choose_gpu(const Placement& placement, Environment& environment) const {
  auto visible = VisibleDevices::read(source_.config);
  if (!visible) return std::unexpected(visible.error());
  if (visible->variable()) environment["CUDA_VISIBLE_DEVICES"] = visible->variable();
  auto gpu = visible->ordinal(placement.device);
  if (gpu) return gpu;
  if (placement.kind != "GPU" && placement_.on_gpu().empty()) return -1;
  gpu.error().context = {source_.name, placement.name, {}};
  return gpu;
}

Result<InstanceSpec> ModelState::spec(std::size_t index, const Placement& placement) const {
  auto command = stub_command(source_.config, source_.directory, options_.python, options_.payload);
  if (!command) return std::unexpected(command.error());
  InstanceSpec spec;
  auto gpu = choose_gpu(placement, command->environment);
  if (!gpu) return std::unexpected(gpu.error());
  spec.link = {source_.name,        placement.name,          index,
               options_.ring_bytes, arena_options(options_), *gpu,
               placement_.on_gpu()};
  spec.command = std::move(*command);
  spec.model_path = source_.model_file.string();
  spec.args = initialize_args(placement);
  spec.limits = {seconds_parameter(source_.config, "TENSORFERRY_EXECUTE_TIMEOUT_S"),
                 seconds_parameter(source_.config, "TENSORFERRY_SLOW_EXECUTE_S")};
  spec.load_timeout = options_.load_timeout;
  spec.finalize_timeout = options_.finalize_timeout;
  return spec;
}

}  // namespace tensorferry::server
