#include "knobs.h"

#include <tensorferry/cuda/rung.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>
#include <utility>
#include <vector>

#include "input_placement.h"
#include "visible_devices.h"

namespace tensorferry::server {
namespace {

template <class Number>
bool is_number(std::string_view text, Number& value) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size();
}

std::string seconds(std::string_view text) {
  constexpr double kMost = 1e9;
  double value = -1;
  const bool good = is_number(text, value) && value >= 0 && value <= kMost;
  return good ? "" : "it must be a number of seconds, 0 for no limit";
}

std::string byte_size(std::string_view text) {
  std::size_t value = 0;
  return is_number(text, value) && value > 0 ? "" : "it must be a number of bytes";
}

std::string yes_or_no(std::string_view text) {
  return text == "yes" || text == "no" ? "" : "it must be \"yes\" or \"no\"";
}

std::string flag(std::string_view text) {
  return text == "0" || text == "1" ? "" : "it must be \"0\" or \"1\"";
}

std::string gpu_transport(std::string_view text) {
  return cuda::gpu_transport_from_string(text) ? "" : "it must be auto, vmm, ipc, staging or off";
}

std::string input_placement(std::string_view text) {
  auto parsed = parse_input_placement(text);
  return parsed ? "" : parsed.error().message;
}

using enum Knob::Where;

constexpr auto kKnobs = std::to_array<Knob>({
    {Parameter, "TENSORFERRY_PYTHON", "path of an interpreter, or of a venv's or conda's folder",
     "the server's option `python`",
     "what runs the model; `$$TRITON_MODEL_DIRECTORY` at its beginning stands for the model's "
     "folder"},
    {Parameter, "EXECUTION_ENV_PATH", "path of a venv's or conda's folder", "as above",
     "Triton's name for the same; an archive is refused"},
    {Parameter, "TENSORFERRY_EXECUTE_TIMEOUT_S", "seconds, with fractions; 0: none", "none",
     "a stub whose `execute()` runs longer says where it is, and is killed", seconds},
    {Parameter, "TENSORFERRY_SLOW_EXECUTE_S", "seconds, with fractions; 0: none", "none",
     "a stub whose `execute()` runs longer says where it is, and goes on", seconds},
    {Parameter, "TENSORFERRY_STRICT", "0, 1", "0",
     "1: `as_numpy()` of a tensor on a GPU raises, in Triton's words", flag},
    {Parameter, InputPlacement::kForceCpu, "yes, no", "yes",
     "Triton's: \"yes\" moves inputs that lie on a GPU to the CPU, \"no\" leaves them there",
     yes_or_no},
    {Parameter, InputPlacement::kParameter, "`NAME=cpu`, `NAME=gpu`, `NAME=as_is`, with commas",
     "as FORCE_CPU_ONLY_INPUT_TENSORS says",
     "for the inputs that it names instead of FORCE_CPU_ONLY_INPUT_TENSORS: moved to the CPU; "
     "copied from the CPU to the instance's GPU (`model_instance_device_id`); left where it is",
     input_placement},
    {Parameter, "TENSORFERRY_GPU_POOL_BYTE_SIZE", "bytes", "what the device has",
     "what a model's arena on a GPU may take, and each of its stubs' there", byte_size},
    {Parameter, "TENSORFERRY_GPU_TRANSPORT", "auto, vmm, ipc, staging, off",
     "as the environment's says", "which ways of sharing device memory with stubs are tried",
     gpu_transport},
    {Parameter, VisibleDevices::kParameter, "UUIDs or the server's ordinals, with commas",
     "what the server sees",
     "the GPUs that the model's stubs see, in that order, as CUDA_VISIBLE_DEVICES; "
     "`instance_group`'s `gpus` and `model_instance_device_id` count them. Empty: none"},
    {Parameter, "TENSORFERRY_PIN", "0, 1", "0",
     "1: the stub registers its shared memory with CUDA once the model has made a context: "
     "`is_pinned()` is true from the next request on, and `non_blocking=True` doesn't wait. Hold a "
     "tensor until such a copy of it is done",
     flag},

    {Environment, "TENSORFERRY_PAYLOAD", "path", "the package's",
     "folder of what stubs run, for programs that embed the C++ library"},
    {Environment, "TENSORFERRY_CUDA", "off", "on", "off: as if there were no driver"},
    {Environment, "TENSORFERRY_GPU_TRANSPORT", "auto, vmm, ipc, staging, off",
     "auto: the best there is", "how device memory is shared with stubs"},
    {Environment, "TENSORFERRY_GPU_PROBE", "off", "on",
     "off: no way of sharing is tried, the device's attributes are believed"},
    {Environment, "TENSORFERRY_TRACE", "path of a folder", "no traces",
     "server and stubs write their spans there, for `tensorferry trace`"},
    {Environment, "TENSORFERRY_NVTX", "0", "ranges where a tool is attached",
     "0: no ranges for NVTX tools"},
});

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

void table(Knob::Where where, std::string_view title, std::string& out) {
  out += "| " + std::string(title) + " | values | otherwise | |\n|---|---|---|---|\n";
  for (const Knob& knob : kKnobs) {
    if (knob.where != where) continue;
    out += "| `" + std::string(knob.name) + "` | " + std::string(knob.values) + " | " +
           std::string(knob.otherwise) + " | " + std::string(knob.meaning) + " |\n";
  }
}

}  // namespace

std::span<const Knob> knobs() noexcept { return kKnobs; }

const Knob* find_parameter(std::string_view name) noexcept {
  for (const Knob& knob : kKnobs)
    if (knob.where == Parameter && knob.name == name) return &knob;
  return nullptr;
}

const Knob* nearest_parameter(std::string_view name) {
  const Knob* nearest = nullptr;
  std::size_t least = name.size() / 4 + 1;  // further off it is another word
  for (const Knob& knob : kKnobs) {
    if (knob.where != Parameter) continue;
    const std::size_t distance = edit_distance(name, knob.name);
    if (distance >= least) continue;
    least = distance;
    nearest = &knob;
  }
  return nearest;
}

std::string knobs_markdown() {
  std::string out;
  table(Parameter, "model parameter", out);
  out += '\n';
  table(Environment, "environment of the server", out);
  return out;
}

}  // namespace tensorferry::server
