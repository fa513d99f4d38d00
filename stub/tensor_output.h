// What a Tensor's bytes are, for the plan of a batch's outputs.
#pragma once

#include <optional>

#include "output_plan.h"
#include "tensor_object.h"

namespace tensorferry::stub {

// Puts the tensor's bytes into the plan: its place there, or why it has none (out of shared
// memory). Nothing and an exception set when the tensor can't be turned into bytes.
std::optional<Result<std::size_t>> plan_output(OutputPlan& plan, TensorObject* tensor);

}  // namespace tensorferry::stub
