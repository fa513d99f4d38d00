#include "inbound.h"

#include <tensorferry/transport/copy.h>

namespace tensorferry::stub {
namespace {

std::shared_ptr<DeviceUse> on_device(const protocol::TensorRecord& tensor,
                                     std::span<const protocol::EventSlot> ready) {
  auto use = std::make_shared<DeviceUse>();
  use->device = tensor.device;
  for (const protocol::EventSlot& event : ready) {
    if (event.device == tensor.device) use->ready = event;
  }
  return use;
}

Result<InputMemory> read_memory(const protocol::TensorRecord& tensor, const Resolve& resolve,
                                std::span<const protocol::EventSlot> ready) {
  std::shared_ptr<DeviceUse> device;
  if (tensor.device.kind == DeviceKind::Cuda) device = on_device(tensor, ready);
  if (tensor.memory.kind == protocol::MemoryKind::Segment) {
    auto memory = read_host_memory(tensor.memory, resolve);
    if (memory) memory->device = std::move(device);
    return memory;
  }
  InputMemory memory;
  memory.bytes = tensor.memory.bytes;
  memory.device = std::move(device);
  if (tensor.memory.kind == protocol::MemoryKind::Inline) {
    memory.small.assign(tensor.inline_bytes.begin(), tensor.inline_bytes.end());
    count_copy(memory.bytes, CopyKind::Inline);
    memory.data = memory.small.data();
    return memory;
  }
  memory.lease = tensor.memory.lease;
  memory.segment = tensor.memory.place;
  memory.offset = tensor.memory.offset;
  return memory;
}

void read_attributes(const protocol::RequestRecord& record, InboundRequest& request) {
  request.number = record.request;
  request.id = record.id;
  request.correlation = record.correlation;
  request.correlation_text = record.correlation_text;
  request.flags = record.flags;
  request.timeout_us = record.timeout_us;
  request.trace_context = record.trace_context;
  for (const auto& p : record.parameters) {
    request.parameters.push_back(
        {std::string(p.key), p.kind, p.integer, p.number, std::string(p.text)});
  }
  for (std::string_view name : record.requested_outputs) request.outputs.emplace_back(name);
}

}  // namespace

Result<InputMemory> read_host_memory(const protocol::MemoryRef& memory, const Resolve& resolve) {
  auto range = resolve(memory);
  if (!range) return std::unexpected(range.error());
  InputMemory input;
  input.lease = memory.lease;
  input.segment = memory.place;
  input.offset = memory.offset;
  input.data = range->bytes.data();
  input.bytes = memory.bytes;
  input.mapping = std::move(range->segment);
  return input;
}

Result<InboundBatch> read_batch(const protocol::Execute& message, const Resolve& resolve) {
  InboundBatch batch;
  batch.number = message.batch;
  for (const auto& record : message.requests) {
    InboundRequest& request = batch.requests.emplace_back();
    read_attributes(record, request);
    for (const auto& tensor : record.inputs) {
      InputTensor& input = request.inputs.emplace_back();
      input.name = tensor.name;
      input.dtype = tensor.dtype;
      input.shape.assign(tensor.shape.begin(), tensor.shape.end());
      auto memory = read_memory(tensor, resolve, message.ready);
      if (!memory) return std::unexpected(memory.error());
      input.memory = std::move(*memory);
    }
  }
  return batch;
}

}  // namespace tensorferry::stub
