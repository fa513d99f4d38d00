#include "calls.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "arrays.h"
#include "device_arrays.h"
#include "errors.h"

namespace tensorferry::python {
namespace {

using server::Call;
using server::Model;
using server::Request;
using server::Response;

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// A longer timeout is as good as none, and a clock's nanoseconds have an end.
constexpr double kLongestSeconds = 1e9;

Deadline deadline_of(const RequestArguments& arguments) {
  if (!arguments.timeout) return {};
  if (!(*arguments.timeout >= 0))
    throw py::value_error("timeout is a number of seconds, zero or more, not " +
                          std::string(py::str(py::float_(*arguments.timeout))));
  return Clock::now() + to_duration(std::min(*arguments.timeout, kLongestSeconds));
}

std::string_view view_of(py::handle text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (!data) throw py::error_already_set();
  return {data, static_cast<std::size_t>(size)};
}

// NumPy's scalars count as what they are.
server::ParameterValue parameter_of(py::handle value) {
  if (PyBool_Check(value.ptr())) return value.ptr() == Py_True;
  if (PyUnicode_Check(value.ptr())) return std::string(view_of(value));
  if (PyFloat_Check(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
  if (!PyIndex_Check(value.ptr())) {
    throw py::type_error("parameters are bool, int, float or str, and this is " +
                         std::string(py::str(py::type::of(value))));
  }
  const long long number = PyLong_AsLongLong(value.ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  return std::int64_t{number};
}

// Room for a request and its answer, kept from call to call. A thread has a second one when an
// input's conversion runs Python that calls infer again.
struct Room {
  Request request;
  Response response;
  Gifts gifts;
};
class RoomLease {
 public:
  RoomLease() : room_(spare() ? std::move(spare()) : std::make_unique<Room>()) {}
  ~RoomLease() {
    room_->gifts.take_back();
    room_->request.clear();
    room_->response.clear();
    spare() = std::move(room_);
  }
  RoomLease(const RoomLease&) = delete;
  RoomLease& operator=(const RoomLease&) = delete;
  Room* operator->() noexcept { return room_.get(); }
  Room& operator*() noexcept { return *room_; }

 private:
  static std::unique_ptr<Room>& spare() {
    thread_local std::unique_ptr<Room> one;
    return one;
  }
  std::unique_ptr<Room> room_;
};

void fill(Model& model, Request& request, Gifts& gifts, const RequestArguments& arguments) {
  request.id = arguments.request_id;
  request.priority = arguments.priority;
  if (arguments.timeout) {
    const double seconds = std::min(*arguments.timeout, kLongestSeconds);
    request.timeout_us = static_cast<std::uint64_t>(seconds * 1e6);
  }
  if (!arguments.outputs.is_none())
    request.outputs = arguments.outputs.cast<std::vector<std::string>>();
  if (!arguments.parameters.is_none()) {
    for (const auto& [key, value] : arguments.parameters.cast<py::dict>())
      request.parameters.emplace_back(py::str(key), parameter_of(value));
  }
  const auto stream = stream_of_caller(arguments.stream);
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t at = 0;
  while (PyDict_Next(arguments.inputs.ptr(), &at, &key, &value)) {
    to_tensor(model, view_of(key), py::reinterpret_borrow<py::object>(value), gifts, stream,
              request.add_input());
  }
}

std::optional<double> seconds_of(PyObject* timeout) {
  if (timeout == Py_None) return std::nullopt;
  const double seconds = PyFloat_AsDouble(timeout);
  if (PyErr_Occurred()) throw py::error_already_set();
  return seconds;
}

// Without the GIL: waits until signals are to be looked at again.
bool wait_a_slice(Call& call, const Deadline& deadline) {
  const auto slice = Clock::now() + kSignalSlice;
  return call.wait(deadline && *deadline < slice ? *deadline : slice);
}

// Submits and waits for the answer; the GIL is let go of once where that comes soon. A signal's
// exception ends the wait and cancels the request.
Call submit_and_wait(Model& model, Room& room, const Deadline& deadline) {
  Result<Call> submitted;
  bool answered = false;
  {
    py::gil_scoped_release released;
    submitted = model.submit(std::move(room.request));
    if (submitted) answered = wait_a_slice(*submitted, deadline);
  }
  Call call = value_of(std::move(submitted));
  room.gifts.sent();
  while (!answered) {
    if (PyErr_CheckSignals() != 0) {
      call.cancel(ErrorCode::Cancelled, "the caller was interrupted");
      throw py::error_already_set();
    }
    py::gil_scoped_release released;
    if (passed(deadline)) {
      call.cancel(ErrorCode::DeadlineExceeded,
                  "no answer within the request's timeout; it was cancelled");
      break;
    }
    answered = wait_a_slice(call, deadline);
  }
  return call;
}

constexpr const char* kModel = "tensorferry.model";
constexpr Py_ssize_t kArguments = 7;

py::object infer(Model& model, PyObject* const* args) {
  RoomLease room;
  py::object inputs = py::reinterpret_borrow<py::object>(args[0]);
  if (!PyDict_Check(inputs.ptr())) inputs = py::dict(inputs);
  RequestArguments arguments{inputs,
                             args[1],
                             args[2],
                             view_of(args[3]),
                             PyLong_AsUnsignedLongLong(args[4]),
                             seconds_of(args[5]),
                             args[6]};
  if (PyErr_Occurred()) throw py::error_already_set();
  const Deadline deadline = deadline_of(arguments);
  fill(model, room->request, room->gifts, arguments);
  Call call = submit_and_wait(model, *room, deadline);
  auto taken = call.take(room->response);
  if (!taken) raise(taken.error());
  return to_python(room->response);
}

PyObject* infer_builtin(PyObject* capsule, PyObject* const* args, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_SetString(PyExc_TypeError, "infer takes seven arguments");
    return nullptr;
  }
  try {
    return infer(*static_cast<Model*>(PyCapsule_GetPointer(capsule, kModel)), args).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyMethodDef infer_definition = {
    "infer", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(infer_builtin)),
    METH_FASTCALL,
    "infer(inputs, outputs, parameters, request_id, priority, timeout, stream) -> Response"};

}  // namespace

PyCall submit_request(Model& model, const RequestArguments& arguments) {
  const Deadline deadline = deadline_of(arguments);
  Request request;
  Gifts gifts;
  fill(model, request, gifts, arguments);
  auto arrival = std::make_shared<Arrival>();
  Result<Call> submitted;
  {
    py::gil_scoped_release released;
    submitted = model.submit(std::move(request), [arrival] { arrival->came(); }, deadline);
  }
  Call call = value_of(std::move(submitted));
  gifts.sent();
  return {std::move(call), std::move(arrival)};
}

void PyCall::check_process() const { value_of(home_.check()); }

bool PyCall::wait(std::optional<double> timeout) {
  py::gil_scoped_release released;
  return call_.wait(timeout ? Deadline(Clock::now() + to_duration(*timeout)) : Deadline{});
}

py::object PyCall::take() {
  Response response;
  auto taken = call_.take(response);
  if (!taken) raise(taken.error());
  return to_python(response);
}

void PyCall::cancel() {
  Call call = call_;  // of our own: another thread may take the answer meanwhile
  py::gil_scoped_release released;
  call.cancel(ErrorCode::Cancelled, "the request was cancelled by the caller");
}

py::object infer_function(const Model& model) {
  auto capsule =
      py::reinterpret_steal<py::object>(PyCapsule_New(new Model(model), kModel, [](PyObject* one) {
        delete static_cast<Model*>(PyCapsule_GetPointer(one, kModel));
      }));
  return py::reinterpret_steal<py::object>(PyCFunction_New(&infer_definition, capsule.ptr()));
}

void bind_calls(py::module_& module) {
  py::class_<Doorbell, std::shared_ptr<Doorbell>>(module, "Doorbell")
      .def(py::init<>())
      .def("fileno", &Doorbell::fd)
      .def("silence", &Doorbell::silence);
  py::class_<PyCall>(module, "Call")
      .def("wait", &PyCall::wait, py::arg("timeout") = py::none())
      .def("done", &PyCall::done)
      .def("take", &PyCall::take)
      .def("cancel", &PyCall::cancel)
      .def("check_process", &PyCall::check_process)
      .def("announce_at", &PyCall::announce_at, py::arg("bell"));
}

}  // namespace tensorferry::python
