// Whether a request fits its model: asked before anything is sent.
#include <tensorferry/transport/codec.h>

#include <algorithm>

#include "model_state.h"

namespace tensorferry::server {
namespace {

std::string shape_text(const auto& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) text += (i ? "," : "") + std::to_string(dims[i]);
  return text + "]";
}

std::string names_of(const auto& tensors) {
  std::string text;
  for (const auto& tensor : tensors) text += (text.empty() ? "'" : ", '") + tensor.name + "'";
  return text.empty() ? "none" : text;
}

std::unexpected<Error> wrong(const std::string& model, const Request& request, std::string what) {
  return std::unexpected(
      Error{ErrorCode::InvalidArgument, std::move(what), {model, {}, request.id}});
}

}  // namespace

// What a stub would refuse to read.
Result<void> ModelState::check_sizes(const Request& request) const {
  using namespace protocol;
  if (request.id.size() > kMaxNameBytes) {
    return wrong(name(), {},
                 "the request's id has " + std::to_string(request.id.size()) + " bytes, " +
                     std::to_string(kMaxNameBytes) + " are allowed");
  }
  std::size_t text = request.correlation_text.size() + request.trace_context.size();
  for (const auto& [key, value] : request.parameters) {
    if (key.size() > kMaxNameBytes) {
      return wrong(name(), request,
                   "a parameter's key has " + std::to_string(key.size()) + " bytes, " +
                       std::to_string(kMaxNameBytes) + " are allowed");
    }
    text += sizeof(Parameter) + key.size();
    if (const auto* value_text = std::get_if<std::string>(&value)) text += value_text->size();
  }
  if (text <= kMaxTextBytes) return {};
  return wrong(name(), request,
               "the request's parameters, correlation id and trace context take " +
                   std::to_string(text) + " bytes, " + std::to_string(kMaxTextBytes) +
                   " are allowed: what is larger belongs into an input");
}

// `batch` becomes the request's batch dimension, 1 where the model has none.
Result<void> ModelState::check(const Request& request, std::int64_t& batch) const {
  const ModelConfig& config = source_.config;
  if (auto fits = check_sizes(request); !fits) return fits;
  batch = config.max_batch_size > 0 ? -1 : 1;
  for (const Tensor& tensor : request.inputs) {
    auto input =
        std::ranges::find(config.inputs, tensor.name,
                          [](const auto& spec) -> const std::string& { return spec.name; });
    if (input == config.inputs.end()) {
      return wrong(name(), request,
                   "unexpected inference input '" + tensor.name + "': model '" + name() +
                       "' has inputs " + names_of(config.inputs));
    }
    if (tensor.dtype != input->dtype) {
      return wrong(name(), request,
                   "inference input '" + tensor.name + "' has dtype " + to_string(tensor.dtype) +
                       ", model '" + name() + "' expects " + to_string(input->dtype));
    }
    std::span<const std::int64_t> shape(tensor.shape);
    if (config.max_batch_size > 0) {
      if (shape.empty()) {
        return wrong(name(), request,
                     "inference input '" + tensor.name +
                         "' needs a batch dimension in front: model '" + name() +
                         "' has max_batch_size " + std::to_string(config.max_batch_size));
      }
      if (shape[0] < 1 || shape[0] > config.max_batch_size) {
        return wrong(name(), request,
                     "inference input '" + tensor.name + "' has batch size " +
                         std::to_string(shape[0]) + ", model '" + name() + "' takes 1 to " +
                         std::to_string(config.max_batch_size));
      }
      if (batch >= 0 && batch != shape[0]) {
        return wrong(name(), request,
                     "inference input '" + tensor.name + "' has batch size " +
                         std::to_string(shape[0]) + ", another input of the request has " +
                         std::to_string(batch));
      }
      batch = shape[0];
      shape = shape.subspan(1);
    }
    bool fits = shape.size() == input->dims.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i) {
      fits = input->dims[i] == -1 ? shape[i] >= 0 : shape[i] == input->dims[i];
    }
    if (!fits) {
      return wrong(name(), request,
                   "inference input '" + tensor.name + "' has shape " + shape_text(tensor.shape) +
                       ", model '" + name() + "' expects " +
                       (config.max_batch_size > 0 ? "a batch of " : "") + shape_text(input->dims));
    }
    auto count = element_count(tensor.shape);
    if (!count)
      return wrong(name(), request,
                   "inference input '" + tensor.name + "': " + count.error().message);
    std::size_t expected = static_cast<std::size_t>(*count) * element_bytes(tensor.dtype);
    if (!tensor.dtype.is_bytes() && tensor.data.size() != expected) {
      return wrong(name(), request,
                   "inference input '" + tensor.name + "' has " +
                       std::to_string(tensor.data.size()) + " bytes of data, its shape " +
                       shape_text(tensor.shape) + " takes " + std::to_string(expected));
    }
  }
  for (const auto& input : config.inputs) {
    auto given = std::ranges::count(request.inputs, input.name, &Tensor::name);
    if (given == 0 && !input.optional) {
      return wrong(name(), request,
                   "inference input '" + input.name + "' is missing: model '" + name() +
                       "' needs " + names_of(config.inputs));
    }
    if (given > 1)
      return wrong(name(), request, "inference input '" + input.name + "' is given twice");
  }
  for (const std::string& output : request.outputs) {
    if (std::ranges::find(config.outputs, output, [](const auto& spec) -> const std::string& {
          return spec.name;
        }) == config.outputs.end()) {
      return wrong(name(), request,
                   "unexpected inference output '" + output + "': model '" + name() +
                       "' has outputs " + names_of(config.outputs));
    }
  }
  if (batch < 0) batch = 1;
  return {};
}

}  // namespace tensorferry::server
