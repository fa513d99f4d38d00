// A batch as a message has it, with what it lends to the stub. Everything here is under
// send_mutex_.
#include <string>
#include <utility>
#include <variant>

#include "stub_link.h"

namespace tensorferry::server {
namespace {

// Requests or parameters of a batch that fit into a message whatever they hold (model_check.cc).
constexpr std::size_t kSurelySendable = 16;

protocol::Parameter to_wire(const std::pair<std::string, ParameterValue>& entry) {
  protocol::Parameter wire;
  wire.key = entry.first;
  struct Fill {
    protocol::Parameter& wire;
    void operator()(std::int64_t value) { wire.integer = value; }
    void operator()(bool value) {
      wire.kind = protocol::ParameterKind::Bool;
      wire.integer = value;
    }
    void operator()(double value) {
      wire.kind = protocol::ParameterKind::Double;
      wire.number = value;
    }
    void operator()(const std::string& value) {
      wire.kind = protocol::ParameterKind::String;
      wire.text = value;
    }
  };
  std::visit(Fill{wire}, entry.second);
  return wire;
}

}  // namespace

void StubLink::describe(const Batch& batch, std::span<const std::size_t> slots,
                        const ReadyEvents& ready) {
  requests_.clear();
  tensors_.clear();
  parameters_.clear();
  names_.clear();
  lent_now_.clear();
  // Views into these vectors are taken while they fill, so they must not move.
  std::size_t tensors = 0, parameters = 0, names = 0;
  for (const auto& execution : batch) {
    tensors += execution->request().inputs.size();
    parameters += execution->request().parameters.size();
    names += execution->request().outputs.size();
  }
  tensors_.reserve(tensors);
  parameters_.reserve(parameters);
  names_.reserve(names);
  for (std::size_t i = 0; i < batch.size(); ++i)
    describe(batch[i]->request(), in_flight_[slots[i]].number, ready);
}

Result<void> StubLink::send_batch(std::uint64_t number, const ReadyEvents& ready,
                                  const Batch& batch, const Deadline& deadline) {
  channel_->take_releases(given_back_now_);
  protocol::Execute message;
  message.batch = number;
  message.requests = requests_;
  message.ready = ready.events;
  message.releases = given_back_now_.releases;
  message.seen = given_back_now_.seen;
  if ((batch.size() > kSurelySendable || parameters_.size() > kSurelySendable) &&
      encoded_bytes(message) > protocol::kMaxBodyBytes) {
    return failure(ErrorCode::InvalidArgument,
                   "a batch of " + std::to_string(batch.size()) + " requests with " +
                       std::to_string(parameters_.size()) + " parameters is longer than the " +
                       std::to_string(protocol::kMaxBodyBytes) + " bytes of a message");
  }
  return channel_->send(message, Urgency::Lazy, deadline);
}

void StubLink::describe(const Request& request, std::uint64_t number, const ReadyEvents& ready) {
  protocol::RequestRecord record;
  record.request = number;
  record.id = request.id;
  record.correlation = request.correlation_id;
  record.correlation_text = request.correlation_text;
  record.flags = request.flags;
  record.timeout_us = request.timeout_us;
  record.priority = request.priority;
  record.trace_context = request.trace_context;
  std::size_t first_parameter = parameters_.size(), first_name = names_.size(),
              first_tensor = tensors_.size();
  for (const auto& entry : request.parameters) parameters_.push_back(to_wire(entry));
  for (const auto& name : request.outputs) names_.push_back(name);
  for (const Tensor& input : request.inputs) tensors_.push_back(lend(input, ready));
  record.parameters = std::span(parameters_).subspan(first_parameter);
  record.requested_outputs = std::span(names_).subspan(first_name);
  record.inputs = std::span(tensors_).subspan(first_tensor);
  requests_.push_back(record);
}

protocol::TensorRecord StubLink::lend(const Tensor& input, const ReadyEvents& ready) {
  protocol::TensorRecord record;
  record.name = input.name;
  record.dtype = input.dtype;
  record.shape = input.shape;
  const Buffer& placed = data_of(input);
  const auto staged =
      std::ranges::find(ready.staged, &input, &decltype(ready.staged)::value_type::first);
  const Buffer& data = staged == ready.staged.end() ? placed : staged->second;
  std::span<const std::byte> bytes = data.bytes();
  record.device = placed.device();
  record.memory.bytes = bytes.size();
  if (!data.is_cpu()) {
    lend_device(data, ready, record);
    return record;
  }
  if (bytes.size() < protocol::kInlineBelowBytes) {
    record.inline_bytes = bytes;
    count_copy(bytes.size(), CopyKind::Inline);
    return record;
  }
  const HostBlock* holder = HostBlock::of(data, *host_);
  expects(holder != nullptr,
          "a tensor of a page or more lies in its model's host arena when it is sent");
  Block block = host_->arena().lookup(holder->block()).value();
  std::uint64_t offset = block.offset + static_cast<std::uint64_t>(bytes.data() - block.data);
  LeaseBook::Range range{block.id, block.segment, offset, bytes.size(),
                         const_cast<std::byte*>(bytes.data())};
  record.memory.kind = protocol::MemoryKind::Segment;
  record.memory.place = block.segment;
  record.memory.offset = offset;
  record.memory.lease = lent_.lend(range);
  lent_now_.push_back(record.memory.lease);
  return record;
}

}  // namespace tensorferry::server
