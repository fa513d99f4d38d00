#include "tensor_output.h"

#include <tensorferry/transport/copy.h>

#include "byte_strings.h"
#include "device_access.h"
#include "numpy_api.h"

namespace tensorferry::stub {
namespace {

CopyKind kind_of(std::size_t bytes) {
  return bytes < protocol::kInlineBelowBytes ? CopyKind::Inline : CopyKind::Host;
}

std::optional<Result<std::size_t>> plan_strings(OutputPlan& plan, const numpy::Array& array) {
  ByteStrings strings;
  if (!strings.collect(array)) return std::nullopt;
  auto room = plan.reserve(strings.encoded_bytes());
  if (!room) return std::unexpected(room.error());
  strings.write(room->bytes.data());
  count_copy(room->bytes.size(), kind_of(room->bytes.size()));
  return room->place;
}

// Gathered straight into its place: one copy.
Result<std::size_t> plan_strided(OutputPlan& plan, const numpy::Array& array, std::size_t element) {
  auto room = plan.reserve(numpy::bytes_of(array, element));
  if (!room) return std::unexpected(room.error());
  static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
  copy_strided(room->bytes.data(), array.data, reinterpret_cast<const std::int64_t*>(array.shape),
               reinterpret_cast<const std::int64_t*>(array.strides),
               static_cast<std::size_t>(array.rank), element);
  return room->place;
}

std::optional<Result<std::size_t>> plan_on_host(OutputPlan& plan, Memory& memory,
                                                cuda::WaitReason reason) {
  auto room = plan.reserve(memory.bytes);
  if (!room) return std::unexpected(room.error());
  if (memory.bytes != 0 && !copy_to_host(room->bytes.data(), memory, reason)) return std::nullopt;
  return room->place;
}

// In host memory, from where the server brings it to its device.
std::optional<Result<std::size_t>> plan_staged(OutputPlan& plan, Memory& memory) {
  auto place = memory.is_staged() ? plan.add(memory.input->data, memory.bytes)
                                  : plan_on_host(plan, memory, cuda::WaitReason::Staging);
  if (place && *place) plan.name_device(**place, memory.device->device);
  return place;
}

std::optional<Result<std::size_t>> plan_device(OutputPlan& plan, Memory& memory) {
  const DeviceUse& use = *memory.device;
  // The server has offered nothing there: the tensor arrives on the CPU.
  if (use.local && !use.lane) return plan_on_host(plan, memory, cuda::WaitReason::HostArray);
  const bool on_ours = use.lane && use.lane->stages() && memory.bytes != 0;
  if (on_ours || memory.is_staged()) return plan_staged(plan, memory);
  DeviceOutput output;
  output.range = range_of(memory);
  output.use = memory.device;
  output.input = memory.input ? &*memory.input : nullptr;
  output.kept = memory.foreign;
  return plan.add(std::move(output));
}

}  // namespace

std::optional<Result<std::size_t>> plan_output(OutputPlan& plan, TensorObject* tensor) {
  if (is_on_device(tensor)) return plan_device(plan, memory_of(tensor->memory));
  if (!tensor->array) {
    const Memory& memory = memory_of(tensor->memory);
    return plan.add(memory.data, memory.bytes);
  }
  if (!check_dtype(tensor)) return std::nullopt;
  const numpy::Array& array = *numpy::as_array(tensor->array);
  if (tensor->dtype.is_bytes()) return plan_strings(plan, array);
  const std::size_t element = element_bytes(tensor->dtype);
  if (!numpy::is_packed(array)) return plan_strided(plan, array, element);
  return plan.add(reinterpret_cast<const std::byte*>(array.data), numpy::bytes_of(array, element));
}

}  // namespace tensorferry::stub
