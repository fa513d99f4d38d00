// Requests on their way: the pieces of infer and infer_async.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/server/model.h>

#include <cstdint>
#include <functional>
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
};

// Copies or takes the inputs. Raises what the caller did wrong. The GIL is held, but for long
// copies.
void fill_request(server::Model& model, server::Request& request,
                  const RequestArguments& arguments);
// Without the GIL. Raises what the model refuses.
server::Call submit_request(server::Model& model, server::Request& request,
                            std::function<void()> on_done = {});

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
  void cancel(const std::string& code, const std::string& why);
  // The bell rings when it is answered. False when it is already.
  bool announce_at(std::shared_ptr<Doorbell> bell) const {
    return arrival_->announce_at(std::move(bell));
  }

 private:
  server::Call call_;
  std::shared_ptr<Arrival> arrival_;
};

// infer(inputs, outputs, parameters, request_id, priority, timeout) of this model: a plain builtin,
// since what pybind11 does per call would be a good part of a small request's whole time.
py::object infer_function(const server::Model& model);

}  // namespace tensorferry::python
