#include "visible_devices.h"

#include <tensorferry/cuda/device.h>

#include <algorithm>
#include <charconv>

#include "comma_list.h"

namespace tensorferry::server {
namespace {

// By number or by UUID.
Result<cuda::Device> device_of(std::string_view text) {
  int number = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code == std::errc() && end == text.data() + text.size())
    return cuda::device_by_ordinal(number);
  auto uuid = cuda::uuid_from_string(text);
  if (!uuid) {
    return failure(ErrorCode::InvalidArgument, "'" + std::string(text) +
                                                   "' is neither a number nor a UUID such as "
                                                   "\"GPU-01234567-89ab-cdef-0123-456789abcdef\"");
  }
  return cuda::device_by_uuid(*uuid);
}

// A MIG device's name can't be told from its UUID: where it was given, it goes on as it is.
std::string name_of(std::string_view text, const cuda::Device& device) {
  return text.find('-') == std::string_view::npos ? to_string(device.uuid) : std::string(text);
}

std::unexpected<Error> in_parameter(const ModelConfig& config, Error error) {
  error.message = std::string("parameter ") + VisibleDevices::kParameter + " of model '" +
                  config.name + "': " + error.message;
  error.context.model = config.name;
  return std::unexpected(std::move(error));
}

}  // namespace

Result<VisibleDevices> VisibleDevices::read(const ModelConfig& config) {
  VisibleDevices result;
  auto given = config.parameters.find(kParameter);
  if (given == config.parameters.end()) return result;
  result.variable_.emplace();
  for (std::string_view text : comma_list(given->second)) {
    auto device = device_of(text);
    if (!device) return in_parameter(config, std::move(device.error()));
    if (std::ranges::find(result.ordinals_, device->ordinal) != result.ordinals_.end()) {
      return in_parameter(
          config, {ErrorCode::InvalidArgument, "'" + std::string(text) + "' is there twice", {}});
    }
    *result.variable_ += (result.ordinals_.empty() ? "" : ",") + name_of(text, *device);
    result.ordinals_.push_back(device->ordinal);
  }
  return result;
}

Result<int> VisibleDevices::ordinal(std::int64_t number) const {
  if (!variable_) return static_cast<int>(number);
  if (number >= 0 && static_cast<std::size_t>(number) < ordinals_.size())
    return ordinals_[static_cast<std::size_t>(number)];
  return failure(ErrorCode::InvalidArgument, "an instance is for GPU " + std::to_string(number) +
                                                 ", but " + kParameter + " leaves " +
                                                 std::to_string(ordinals_.size()) +
                                                 " visible, which instance_group counts from 0");
}

}  // namespace tensorferry::server
