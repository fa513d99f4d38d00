#include <tensorferry/server/request.h>

namespace tensorferry::server {

Tensor& SpareTensors::append_to(std::vector<Tensor>& tensors) {
  if (spare_.empty()) return tensors.emplace_back();
  tensors.push_back(std::move(spare_.back()));
  spare_.pop_back();
  return tensors.back();
}

void SpareTensors::take_from(std::vector<Tensor>& tensors) noexcept {
  constexpr std::size_t kMost = 64;
  for (Tensor& tensor : tensors) {
    if (spare_.size() == kMost) break;
    tensor.name.clear();
    tensor.shape.clear();
    tensor.data = {};
    spare_.push_back(std::move(tensor));
  }
  tensors.clear();
}

void Request::clear() noexcept {
  id.clear();
  spare_.take_from(inputs);
  outputs.clear();
  parameters.clear();
  correlation_id = 0;
  correlation_text.clear();
  flags = 0;
  priority = 0;
  trace_context.clear();
  timeout_us = 0;
}

const Tensor* Response::find(std::string_view name) const noexcept {
  for (const Tensor& tensor : outputs) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

void Response::clear() noexcept {
  spare_.take_from(outputs);
  parameters.clear();
}

}  // namespace tensorferry::server
