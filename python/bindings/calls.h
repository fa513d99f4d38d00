// Requests on their way: the pieces of infer and infer_async.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/server/model.h>
#include <tensorferry/server/void_after_fork.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "doorbell.h"

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
  py::handle stream;              // None, or what the caller works on with device inputs
};

// A submitted request, as Python holds it. Thread-safe, but for wait(): one thread at a time, and
// not beside take().
class PyCall {
 public:
  PyCall(server::Call call, std::shared_ptr<Arrival> arrival)
      : call_(std::move(call)), arrival_(std::move(arrival)) {}

  // True when it is answered; waits at most `timeout` seconds, without the GIL.
  bool wait(std::optional<double> timeout);
  bool done() const { return call_.done(); }
  py::object take();
  void cancel();  // nothing in a forked child
  // Raises Closed in a forked child, where nothing else but done() and cancel() may be called.
  void check_process() const;
  // The bell rings when it is answered. False when it is already.
  bool announce_at(std::shared_ptr<Doorbell> bell) const {
    return arrival_->announce_at(std::move(bell));
  }

 private:
  server::Call call_;
  std::shared_ptr<Arrival> arrival_;
  server::Home home_;
};

// Copies or takes the inputs and puts the request on its way. Raises what the caller did wrong and
// what the model refuses; then the arrays are as they were. The GIL is held, but for long copies
// and the sending.
PyCall submit_request(server::Model& model, const RequestArguments& arguments);

// infer(inputs, outputs, parameters, request_id, priority, timeout, stream) of this model: a plain
// builtin, since what pybind11 does per call would be a good part of a small request's whole time.
py::object infer_function(const server::Model& model);

}  // namespace tensorferry::python
