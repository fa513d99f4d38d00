// Where each input of a model's is to lie when the model gets it: what its config says.
#pragma once

#include <tensorferry/server/model_config.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tensorferry::server {

enum class InputPlace : std::uint8_t {
  ForcedToCpu,  // in CPU memory, by FORCE_CPU_ONLY_INPUT_TENSORS
  Cpu,          // in CPU memory
  Gpu,          // on the GPU of the instance that runs the request; on a GPU, it stays where it is
  AsIs,         // where the caller has it
};

// "name=cpu|gpu|as_is, ...". Error InvalidArgument says what is wrong.
Result<std::map<std::string, InputPlace, std::less<>>> parse_input_placement(std::string_view text);

// Immutable.
class InputPlacement {
 public:
  static constexpr const char* kParameter = "TENSORFERRY_INPUT_PLACEMENT";
  static constexpr const char* kForceCpu = "FORCE_CPU_ONLY_INPUT_TENSORS";

  // Of a config whose parameters were checked.
  explicit InputPlacement(const ModelConfig& config);

  InputPlace of(std::string_view input) const noexcept {
    if (named_.empty()) return others_;
    auto it = named_.find(input);
    return it == named_.end() ? others_ : it->second;
  }
  // Those that are copied to a GPU.
  std::vector<std::string> on_gpu() const;
  // The same against what the completed config names. Error InvalidArgument: an input that there is
  // not, or one that can't lie on a GPU.
  Result<void> check(const ModelConfig& completed) const;

 private:
  std::map<std::string, InputPlace, std::less<>> named_;
  InputPlace others_ = InputPlace::ForcedToCpu;
};

}  // namespace tensorferry::server
