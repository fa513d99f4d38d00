// TENSORFERRY_GPU_VISIBLE_DEVICES: which of the server's GPUs the stubs of a model see.
#pragma once

#include <tensorferry/server/model_config.h>
#include <tensorferry/transport/error.h>

#include <optional>
#include <string>
#include <vector>

namespace tensorferry::server {

class VisibleDevices {
 public:
  static constexpr const char* kParameter = "TENSORFERRY_GPU_VISIBLE_DEVICES";

  // Of a model's config: UUIDs or ordinals of ours, with commas; nothing in it means none. Without
  // the parameter no driver is loaded. Errors (InvalidArgument and what the driver says) name the
  // parameter.
  static Result<VisibleDevices> read(const ModelConfig& config);

  // For the stubs' environment; nullopt where it is left alone.
  const std::optional<std::string>& variable() const noexcept { return variable_; }
  // Our ordinal of the device that a stub calls `number`. Error InvalidArgument where it sees none
  // of that number.
  Result<int> ordinal(std::int64_t number) const;

 private:
  std::optional<std::string> variable_;
  std::vector<int> ordinals_;
};

}  // namespace tensorferry::server
