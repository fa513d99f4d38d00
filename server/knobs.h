// Everything that can be set by a name of ours: parameters of a model's config and variables of the
// server's environment. docs/knobs.md is written from this list.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tensorferry::server {

struct Knob {
  enum class Where : std::uint8_t { Parameter, Environment };
  // What is wrong with a value; empty where nothing is. Parameters only.
  using Check = std::string (*)(std::string_view value);

  Where where = Where::Parameter;
  std::string_view name;
  std::string_view values;
  std::string_view otherwise;  // what holds where it isn't set
  std::string_view meaning;
  Check check = nullptr;
};

std::span<const Knob> knobs() noexcept;
// The model parameter of that name; nullptr for none.
const Knob* find_parameter(std::string_view name) noexcept;
// The one that was probably meant; nullptr where none is close.
const Knob* nearest_parameter(std::string_view name);

std::string knobs_markdown();

}  // namespace tensorferry::server
