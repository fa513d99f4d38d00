// Requests on their way: the pieces of infer and infer_async.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/server/model.h>

#include <cstdint>
#include <optional>
#include <string>

namespace tensorferry::python {

namespace py = pybind11;

void bind_calls(py::module_& module);

// What infer is called with. Views: valid while the call's arguments are.
struct RequestArguments {
  py::handle inputs;      // dict of name → array-like
  py::handle outputs;     // None or a sequence of str
  py::handle parameters;  // None or a dict
  std::string_view request_id;
  std::uint64_t priority = 0;
  std::optional<double> timeout;  // seconds
};

// Copies or takes the inputs. Raises what the caller did wrong. The GIL is held, but for long
// copies.
void fill_request(server::Model& model, server::Request& request,
                  const RequestArguments& arguments);
// Without the GIL. Raises what the model refuses.
server::Call submit_request(server::Model& model, server::Request& request);

// A submitted request, as Python holds it.
class PyCall {
 public:
  explicit PyCall(server::Call call) : call_(std::move(call)) {}

  // True when it is answered; waits at most `timeout` seconds, without the GIL.
  bool wait(std::optional<double> timeout);
  bool done() const { return call_.done(); }
  py::object take();
  void cancel(const std::string& code, const std::string& why);

 private:
  server::Call call_;
};

// infer(inputs, outputs, parameters, request_id, priority, timeout) of this model: a plain builtin,
// since what pybind11 does per call would be a good part of a small request's whole time.
py::object infer_function(const server::Model& model);

}  // namespace tensorferry::python
