#include <tensorferry/server/request.h>

namespace tensorferry::server {

void Request::clear() noexcept {
  id.clear();
  inputs.clear();
  outputs.clear();
  parameters.clear();
  correlation_id = 0;
  correlation_text.clear();
  flags = 0;
  priority = 0;
  timeout_us = 0;
}

const Tensor* Response::find(std::string_view name) const noexcept {
  for (const Tensor& tensor : outputs) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

void Response::clear() noexcept {
  outputs.clear();
  parameters.clear();
}

}  // namespace tensorferry::server
