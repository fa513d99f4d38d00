#include "batch_runner.h"

#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/trace.h>

#include <algorithm>

#include "numpy_allocator.h"
#include "py_type.h"
#include "python_half.h"
#include "request_object.h"
#include "response_object.h"
#include "tensor_output.h"

namespace tensorferry::stub {
namespace {

using Clock = std::chrono::steady_clock;

// More of an error's text is of no use to anybody, and a message has its limits.
constexpr std::size_t kLongestError = 1 << 20;

PyRef request_list(InboundBatch& batch) {
  PyRef list(PyList_New(static_cast<Py_ssize_t>(batch.requests.size())));
  for (std::size_t i = 0; list && i < batch.requests.size(); ++i) {
    PyRef request = new_request(batch.requests[i]);
    if (!request) return {};
    PyList_SetItem(list.get(), static_cast<Py_ssize_t>(i), request.release());
  }
  return list;
}

PyRef call_model(const BatchCallables& callables, PyObject* requests, std::uint64_t batch) {
  Span span(Phase::Execute, batch);
  static PyObject* name = PyUnicode_InternFromString("execute");
  PyRef execute(PyObject_GetAttr(callables.model, name));
  if (!execute) {
    PyErr_Clear();
    raise_model_exception("Python model %U does not implement `execute` method.",
                          callables.model_path);
    return {};
  }
  PyRef answers(PyObject_CallFunctionObjArgs(execute.get(), requests, nullptr));
  if (!answers || PyList_Check(answers.get())) return answers;
  if (!PyObject_HasAttrString(answers.get(), "__await__")) return answers;
  return PyRef(PyObject_CallFunctionObjArgs(callables.wait_for, answers.get(), nullptr));
}

bool check_answer(PyObject* answer) {
  if (is_response(answer)) return true;
  raise_model_exception(
      "Expected an 'InferenceResponse' object in the execute function return list, found type "
      "'%R'.",
      Py_TYPE(answer));
  return false;
}

std::string message_of(PyObject* triton_error) {
  PyRef message(PyObject_CallMethod(triton_error, "message", nullptr));
  return message ? to_string(message.get()) : std::string();
}

// Where a model gave up early: what it said of the requests that it did answer, which is mostly
// why.
std::string errors_among(PyObject* answers) {
  std::string said;
  for (Py_ssize_t i = 0; i < PyList_Size(answers); ++i) {
    PyRef answer = PyRef::borrow(PyList_GetItem(answers, i));
    if (!is_response(answer.get()) || as_response(answer.get())->error == Py_None) continue;
    said += (said.empty() ? "Among them were errors:\n" : "") +
            message_of(as_response(answer.get())->error) + "\n";
    PyErr_Clear();
  }
  return said;
}

bool check_answers(PyObject* answers, std::size_t requests) {
  if (!PyList_Check(answers)) {
    raise_model_exception("Expected a list in the execute return, found type '%R'.",
                          Py_TYPE(answers));
    return false;
  }
  const auto count = static_cast<std::size_t>(PyList_Size(answers));
  if (count != requests) {
    raise_model_exception(
        "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
        "InferenceRequest(s) size is:%zu, and InferenceResponse(s) size is:%zu\n%s",
        requests, count, errors_among(answers).c_str());
    return false;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (!check_answer(PyList_GetItem(answers, static_cast<Py_ssize_t>(i)))) return false;
  }
  return true;
}

bool is_wanted(const std::vector<std::string>& wanted, PyObject* name) {
  return wanted.empty() || std::ranges::find(wanted, to_string(name)) != wanted.end();
}

ErrorCode code_of(PyObject* triton_error) {
  PyRef code(PyObject_CallMethod(triton_error, "code", nullptr));
  const long number = code ? PyLong_AsLong(code.get()) : -1;
  PyErr_Clear();
  return number >= 0 && number < 256 && is_error_code(static_cast<std::uint8_t>(number))
             ? static_cast<ErrorCode>(number)
             : ErrorCode::Unknown;
}

// The exception that is set, and clears it.
PyRef take_exception() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (value && traceback) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return PyRef(value);
}

}  // namespace

bool BatchRunner::run(InboundBatch& batch, const BatchCallables& callables) {
  clear();
  const auto begin = Clock::now();
  if (!execute(batch, callables)) {
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
      return false;
    if (!fail_all(batch, callables)) return false;
  }
  settle(batch);
  put_together(batch, Clock::now() - begin);
  return true;
}

// When it returns nobody but the model holds a request, response or tensor of the batch: only then
// can it be said what may move.
bool BatchRunner::execute(InboundBatch& batch, const BatchCallables& callables) {
  PyRef requests = request_list(batch);
  if (!requests) return false;
  if (!install_allocator(state().holdings)) return false;
  executions_.add();
  PyRef answers = call_model(callables, requests.get(), batch.number);
  if (!answers) return false;
  Span span(Phase::Collect, batch.number);
  return check_answers(answers.get(), batch.requests.size()) && plan_answers(batch, answers.get());
}

bool BatchRunner::fail_all(const InboundBatch& batch, const BatchCallables& callables) {
  clear();
  std::string why;
  {
    PyRef exception = take_exception();
    PyRef described(PyObject_CallFunctionObjArgs(callables.describe, exception.get(), nullptr));
    if (!described) return false;
    why = to_string(described.get());
  }
  for (const InboundRequest& request : batch.requests) {
    responses_.emplace_back().request = request.number;
    fail(responses_.back(), ErrorCode::Internal, why);
  }
  return true;
}

bool BatchRunner::plan_answers(const InboundBatch& batch, PyObject* answers) {
  for (std::size_t i = 0; i < batch.requests.size(); ++i) {
    Response& response = responses_.emplace_back();
    response.request = batch.requests[i].number;
    response.first = output_count_;
    // Held and looked at again: the model's own str() and code() run meanwhile.
    PyRef answer = PyRef::borrow(PyList_GetItem(answers, static_cast<Py_ssize_t>(i)));
    if (!answer || !check_answer(answer.get()) ||
        !plan_response(response, answer.get(), batch.requests[i].outputs))
      return false;
  }
  return true;
}

bool BatchRunner::plan_response(Response& response, PyObject* object,
                                const std::vector<std::string>& wanted) {
  ResponseObject* answer = as_response(object);
  if (answer->error != Py_None) {
    const std::string text = message_of(answer->error);
    if (PyErr_Occurred()) return false;
    fail(response, code_of(answer->error), text);
    return true;
  }
  if (!plan_parameters(response, answer->parameter_items)) return false;
  for (Py_ssize_t i = 0; i < PyList_Size(answer->tensors) && !response.failed; ++i) {
    PyRef tensor = PyRef::borrow(PyList_GetItem(answer->tensors, i));
    if (!is_tensor(tensor.get())) {
      raise_model_exception("Output tensor for inference response should not be empty.");
      return false;
    }
    if (is_wanted(wanted, as_tensor(tensor.get())->name) && !plan_tensor(response, tensor.get()))
      return false;
  }
  return true;
}

bool BatchRunner::plan_parameters(Response& response, PyObject* items) {
  for (Py_ssize_t i = 0; i < PyTuple_Size(items); ++i) {
    PyObject *key = nullptr, *value = nullptr;
    if (!PyArg_ParseTuple(PyTuple_GetItem(items, i), "OO", &key, &value)) return false;
    Parameter& parameter = response.parameters.emplace_back();
    parameter.key = to_string(key);
    if (PyUnicode_Check(value)) {
      parameter.kind = protocol::ParameterKind::String;
      parameter.text = to_string(value);
    } else {
      parameter.kind =
          PyBool_Check(value) ? protocol::ParameterKind::Bool : protocol::ParameterKind::Int;
      parameter.integer = PyLong_AsLongLong(value);
    }
    if (PyErr_Occurred()) return false;
    if (parameter.key.size() > protocol::kMaxNameBytes ||
        parameter.text.size() > protocol::kMaxTextBytes) {
      fail(response, ErrorCode::InvalidArgument,
           "a response parameter's key has at most " + std::to_string(protocol::kMaxNameBytes) +
               " bytes and its value at most " + std::to_string(protocol::kMaxTextBytes));
      return true;
    }
  }
  return true;
}

bool BatchRunner::plan_tensor(Response& response, PyObject* object) {
  TensorObject* tensor = as_tensor(object);
  if (output_count_ == outputs_.size()) outputs_.emplace_back();
  Output& output = outputs_[output_count_];
  if (output.name_object.get() != tensor->name) {
    output.name = to_string(tensor->name);
    output.name_object = PyRef::borrow(tensor->name);
  }
  if (output.name.size() > protocol::kMaxNameBytes) {
    fail(response, ErrorCode::InvalidArgument,
         "an output's name has at most " + std::to_string(protocol::kMaxNameBytes) + " bytes");
    return true;
  }
  auto place = plan_output(plan_, tensor);
  if (!place) return false;  // an exception is set
  if (!*place) {
    fail(response, place->error().code, place->error().message);
    return true;
  }
  ++output_count_;
  ++response.count;
  output.dtype = tensor->dtype;
  const auto shape = tensor_shape(tensor);
  output.shape.assign(shape.begin(), shape.end());
  output.place = **place;
  return true;
}

// Nothing of it is sent but the error.
void BatchRunner::fail(Response& response, ErrorCode code, std::string text) {
  response.failed = true;
  response.code = code;
  response.error = std::move(text);
  if (response.error.size() > kLongestError) {
    response.error.resize(kLongestError);
    response.error += "... (cut)";
  }
  for (std::size_t i = 0; i < response.count; ++i) plan_.drop(outputs_[response.first + i].place);
}

void BatchRunner::settle(const InboundBatch& batch) {
  Span span(Phase::Settle, batch.number);
  const std::uint64_t before = span ? copy_counts().bytes_of(CopyKind::Host) : 0;
  plan_.settle();
  if (plan_.has_device_work()) without_gil([this] { plan_.record(); });
  if (span) span.set_bytes(copy_counts().bytes_of(CopyKind::Host) - before);
  for (Response& response : responses_) {
    for (std::size_t i = 0; i < response.count && !response.failed; ++i) {
      if (const Error* why = plan_.failure(outputs_[response.first + i].place))
        fail(response, why->code, why->message);
    }
  }
}

void BatchRunner::put_together(const InboundBatch& batch, std::chrono::nanoseconds execute_time) {
  put_responses_together();
  answer_ = {};
  answer_.batch = batch.number;
  answer_.batch_done = true;
  answer_.responses = response_records_;
  answer_.ready = plan_.ready();
  (void)state().link->devices().sweep();
  state().link->take_releases(given_back_);
  for (std::uint64_t lease : plan_.releases()) given_back_.releases.push_back({lease, {}});
  answer_.releases = given_back_.releases;
  answer_.execute_ns = static_cast<std::uint64_t>(execute_time.count());
  const std::uint64_t copied = copy_counts().bytes_of(CopyKind::Host);
  answer_.copied_bytes = copied - std::exchange(reported_copies_, copied);
  // What it lends is the server's from here: a message that can't be sent ends the process.
  plan_.sent();
}

void BatchRunner::put_responses_together() {
  tensor_records_.clear();
  response_records_.clear();
  parameter_records_.clear();
  tensor_records_.reserve(output_count_);
  std::size_t parameters = 0;
  for (const Response& response : responses_) parameters += response.parameters.size();
  parameter_records_.reserve(parameters);
  for (const Response& response : responses_) {
    const std::size_t first = tensor_records_.size();
    const std::size_t first_parameter = parameter_records_.size();
    for (const Parameter& one : response.parameters) {
      if (!response.failed)
        parameter_records_.push_back({one.key, one.kind, one.integer, one.number, one.text});
    }
    for (std::size_t i = 0; i < response.count && !response.failed; ++i) {
      const Output& output = outputs_[response.first + i];
      protocol::TensorRecord& record = tensor_records_.emplace_back();
      record.name = output.name;
      record.dtype = output.dtype;
      record.device = plan_.device(output.place);
      record.shape = output.shape;
      record.memory = plan_.memory(output.place);
      record.inline_bytes = plan_.inline_bytes(output.place);
    }
    protocol::ResponseRecord& record = response_records_.emplace_back();
    record.request = response.request;
    record.flags = protocol::kResponseFinal;
    record.failed = response.failed;
    record.code = response.code;
    record.error = response.error;
    record.parameters = std::span(parameter_records_).subspan(first_parameter);
    record.outputs = std::span(tensor_records_).subspan(first);
  }
}

Result<void> BatchRunner::send() {
  if (!answer_.batch_done) return {};
  Span span(Phase::Respond, answer_.batch);
  if (span) span.set_bytes(output_bytes());
  auto sent = state().link->respond(answer_);
  answer_.batch_done = false;
  return sent;
}

std::uint64_t BatchRunner::output_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& record : tensor_records_) bytes += record.memory.bytes;
  return bytes;
}

void BatchRunner::clear() {
  plan_.clear();
  responses_.clear();
  output_count_ = 0;
}

}  // namespace tensorferry::stub
