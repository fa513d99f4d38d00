#include "input_placement.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "comma_list.h"

namespace tensorferry::server {
namespace {

constexpr std::array<std::pair<std::string_view, InputPlace>, 3> kPlaces = {
    {{"cpu", InputPlace::Cpu}, {"gpu", InputPlace::Gpu}, {"as_is", InputPlace::AsIs}}};

std::optional<InputPlace> place_from(std::string_view word) {
  auto it = std::ranges::find(kPlaces, word, &std::pair<std::string_view, InputPlace>::first);
  return it == kPlaces.end() ? std::nullopt : std::optional(it->second);
}

std::unexpected<Error> wrong(std::string_view entry, const std::string& why) {
  return failure(ErrorCode::InvalidArgument, "'" + std::string(entry) + "' " + why +
                                                 ": write \"name=cpu\", \"name=gpu\" or "
                                                 "\"name=as_is\", separated by commas");
}

std::string names_of(const std::vector<TensorSpec>& inputs) {
  std::string names;
  for (const TensorSpec& input : inputs) names += (names.empty() ? "'" : ", '") + input.name + "'";
  return names.empty() ? "none" : names;
}

}  // namespace

Result<std::map<std::string, InputPlace, std::less<>>> parse_input_placement(
    std::string_view text) {
  std::map<std::string, InputPlace, std::less<>> named;
  for (const std::string_view entry : comma_list(text)) {
    // From the right: a name may hold anything but a comma.
    const auto equals = entry.rfind('=');
    if (equals == std::string_view::npos) return wrong(entry, "names no place");
    const std::string name(trimmed(entry.substr(0, equals)));
    if (name.empty()) return wrong(entry, "names no input");
    const auto place = place_from(trimmed(entry.substr(equals + 1)));
    if (!place) return wrong(entry, "names a place that there is not");
    if (!named.emplace(name, *place).second) return wrong(entry, "is there twice");
  }
  return named;
}

InputPlacement::InputPlacement(const ModelConfig& config) {
  auto force = config.parameters.find(kForceCpu);
  if (force != config.parameters.end() && force->second == "no") others_ = InputPlace::AsIs;
  auto named = config.parameters.find(kParameter);
  if (named == config.parameters.end()) return;
  if (auto parsed = parse_input_placement(named->second)) named_ = std::move(*parsed);
}

std::vector<std::string> InputPlacement::on_gpu() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : named_)
    if (place == InputPlace::Gpu) names.push_back(name);
  return names;
}

Result<void> InputPlacement::check(const ModelConfig& completed) const {
  for (const auto& [name, place] : named_) {
    auto input = std::ranges::find(completed.inputs, name, &TensorSpec::name);
    if (input == completed.inputs.end()) {
      return failure(
          ErrorCode::InvalidArgument,
          std::string("parameter ") + kParameter + " places input '" + name +
              "', which the model doesn't have; its inputs: " + names_of(completed.inputs));
    }
    if (place == InputPlace::Gpu && input->dtype.is_bytes()) {
      return failure(ErrorCode::InvalidArgument,
                     std::string("parameter ") + kParameter + " places input '" + name +
                         "' on the GPU, but TYPE_STRING exists in CPU memory only");
    }
  }
  return {};
}

}  // namespace tensorferry::server
