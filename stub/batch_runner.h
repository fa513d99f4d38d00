// One batch through the model: requests in, execute(), answers out.
#pragma once

#include <tensorferry/transport/counters.h>

#include <chrono>
#include <string>
#include <vector>

#include "output_plan.h"
#include "py.h"
#include "stub_link.h"

namespace tensorferry::stub {

// Python callables that a batch needs besides the model; borrowed.
struct BatchCallables {
  PyObject* model = nullptr;       // has execute()
  PyObject* model_path = nullptr;  // str, for errors
  PyObject* describe = nullptr;    // exception → text that the client reads
  PyObject* wait_for = nullptr;    // awaitable → its result
};

// Reused from batch to batch, so that small ones allocate nothing once warm. One thread; but for
// send() it needs the GIL.
class BatchRunner {
 public:
  explicit BatchRunner(Holdings& holdings)
      : plan_(holdings),
        executions_(
            Counters::of_process().add("executions", {{"instance", holdings.link().instance()}})) {}

  // What it answers waits for send(). False with an exception set when the process is to end
  // (SystemExit).
  bool run(InboundBatch& batch, const BatchCallables& callables);
  // Sends the answer of the last run, once; it may wait for room. An error: the link is of no more
  // use.
  Result<void> send();

 private:
  struct Output {
    std::string name;
    PyRef name_object;  // whose text `name` is: mostly the same str as in the batch before
    DType dtype;
    std::vector<std::int64_t> shape;
    std::size_t place = 0;  // in the plan
  };
  struct Response {
    std::uint64_t request = 0;
    bool failed = false;
    ErrorCode code = ErrorCode::Internal;
    std::string error;
    std::vector<Parameter> parameters;
    std::size_t first = 0, count = 0;  // of outputs_
  };

  bool execute(InboundBatch& batch, const BatchCallables& callables);
  bool fail_all(const InboundBatch& batch, const BatchCallables& callables);
  bool plan_answers(const InboundBatch& batch, PyObject* answers);
  bool plan_response(Response& response, PyObject* answer, const std::vector<std::string>& wanted);
  bool plan_parameters(Response& response, PyObject* items);
  bool plan_tensor(Response& response, PyObject* tensor);
  void fail(Response& response, ErrorCode code, std::string text);
  void settle(const InboundBatch& batch);
  void put_together(const InboundBatch& batch, std::chrono::nanoseconds execute_time);
  void put_responses_together();
  std::uint64_t output_bytes() const;
  void clear();

  OutputPlan plan_;
  const Counter executions_;
  std::vector<Response> responses_;
  std::vector<Output> outputs_;  // the first output_count_ are this batch's
  std::size_t output_count_ = 0;
  std::uint64_t reported_copies_ = 0;  // bytes copied that the server knows of

  // The answer, and what it refers to.
  protocol::Responses answer_;
  std::vector<protocol::TensorRecord> tensor_records_;
  std::vector<protocol::ResponseRecord> response_records_;
  std::vector<protocol::Parameter> parameter_records_;
  GivenBack given_back_;
};

}  // namespace tensorferry::stub
