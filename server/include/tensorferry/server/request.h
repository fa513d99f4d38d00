// What goes to a model and what comes back. Both are plain values that can be reused: clear() keeps
// their memory, so that a loop over small requests allocates nothing once warm.
#pragma once

#include <tensorferry/server/buffer.h>
#include <tensorferry/transport/dtype.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tensorferry::server {

using ParameterValue = std::variant<std::int64_t, bool, double, std::string>;
using Parameters = std::vector<std::pair<std::string, ParameterValue>>;

// A tensor in C order in CPU memory. BYTES: Triton's layout, a 4-byte little-endian length before
// each element.
struct Tensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;  // elements; with the batch dimension where the model has one
  Buffer data;
};

// Tensors that were cleared, for the next ones.
class SpareTensors {
 public:
  Tensor& append_to(std::vector<Tensor>& tensors);
  void take_from(std::vector<Tensor>& tensors) noexcept;

 private:
  std::vector<Tensor> spare_;
};

struct Request {
  std::string id;  // the client's name for it; may be empty
  std::vector<Tensor> inputs;
  std::vector<std::string> outputs;  // wanted ones; empty: all that the config names
  Parameters parameters;
  std::uint64_t correlation_id = 0;
  std::string correlation_text;  // used instead of the number when not empty
  std::uint32_t flags = 0;       // TRITONSERVER_REQUEST_FLAG_*
  std::uint64_t priority = 0;
  std::string trace_context;  // what the model reads as request.trace().get_context()
  std::uint64_t timeout_us =
      0;  // what the model reads as request.timeout(); limits nothing by itself

  // Appends a tensor: one that clear() kept, empty but for the memory of its name and shape, or a
  // new one.
  Tensor& add_input() { return spare_.append_to(inputs); }
  void clear() noexcept;

 private:
  SpareTensors spare_;
};

struct Response {
  std::vector<Tensor> outputs;
  Parameters parameters;

  const Tensor* find(std::string_view name) const noexcept;
  Tensor& add_output() { return spare_.append_to(outputs); }
  void clear() noexcept;

 private:
  SpareTensors spare_;
};

}  // namespace tensorferry::server
