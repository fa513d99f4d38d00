// What a stub says, checked against the books and turned into responses. Everything here runs on
// the thread that reads the ring, and believes nothing.
#include <tensorferry/transport/trace.h>

#include <algorithm>

#include "stub_lease.h"
#include "stub_link.h"

namespace tensorferry::server {
namespace {

ParameterValue from_wire(const protocol::Parameter& wire) {
  switch (wire.kind) {
    case protocol::ParameterKind::Int:
      return wire.integer;
    case protocol::ParameterKind::Bool:
      return wire.integer != 0;
    case protocol::ParameterKind::Double:
      return wire.number;
    case protocol::ParameterKind::String:
      return std::string(wire.text);
  }
  return std::int64_t{0};
}

// NumPy and DLPack want elements at multiples of their size.
std::size_t natural_alignment(DType dtype) {
  std::size_t bytes = element_bytes(dtype);
  return bytes == 0 ? 1 : std::min<std::size_t>(bytes & ~(bytes - 1), 16);
}

Buffer copy_of(std::span<const std::byte> bytes, CopyKind kind) {
  Buffer buffer = Buffer::ordinary(bytes.size());
  copy_payload(buffer.bytes().data(), bytes.data(), bytes.size(), kind);
  return buffer;
}

bool is_on_device(const Tensor& tensor) { return !tensor.data.is_cpu(); }

std::uint64_t output_bytes(const protocol::Responses& message) {
  std::uint64_t bytes = 0;
  for (const auto& response : message.responses)
    for (const auto& output : response.outputs) bytes += output.memory.bytes;
  return bytes;
}

}  // namespace

Error StubLink::violation(const std::string& what) const {
  return in_context({ErrorCode::Protocol,
                     "stub '" + options_.instance + "' broke the protocol and is killed: " + what,
                     {}});
}

Result<void> StubLink::on_message(const Received& message) {
  switch (message.kind) {
    case protocol::RecordKind::Responses: {
      auto responses = decode_private<protocol::Responses>(message.body, message.scratch);
      if (!responses) return std::unexpected(violation(responses.error().message));
      return on_responses(*responses);
    }
    case protocol::RecordKind::Release: {
      auto release = decode_private<protocol::Release>(message.body, message.scratch);
      if (!release) return std::unexpected(violation(release.error().message));
      return on_releases(release->releases);
    }
    default:
      return std::unexpected(violation("record kind " +
                                       std::to_string(static_cast<int>(message.kind)) +
                                       " is not a stub's to send"));
  }
}

Result<void> StubLink::on_responses(const protocol::Responses& message) {
  Span span(Phase::Answer, message.batch);
  if (span) span.set_bytes(output_bytes(message));
  if (!moved_.empty()) moved_ = {};
  if (!message.ready.empty()) {
    auto events = take_events(message.ready);
    if (!events) return std::unexpected(events.error());
    awaited_ = std::move(*events);
  }
  given_back_.clear();
  for (const auto& release : message.releases) given_back_.push_back(release.lease);
  std::ranges::sort(given_back_);
  // Before anybody gets his answer, and may look at the statistics.
  if (message.batch_done) events_.executed(message.execute_ns, message.copied_bytes);
  for (const protocol::ResponseRecord& record : message.responses) {
    if (auto done = on_response(record); !done) return done;
  }
  if (!message.releases.empty()) {
    if (auto done = on_releases(message.releases); !done) return done;
  }
  if (!late_.empty() || !awaited_.empty()) respond_when_complete(message.batch);
  return message.batch_done ? finish_batch(message) : Result<void>{};
}

Result<void> StubLink::on_response(const protocol::ResponseRecord& record) {
  const bool final = record.flags & protocol::kResponseFinal;
  std::shared_ptr<Execution> execution;
  {
    std::scoped_lock lock(mutex_);
    if (closed_) return {};
    std::size_t slot = record.request & 0xFFFFF;
    if (slot >= in_flight_.size() || in_flight_[slot].number != record.request ||
        !in_flight_[slot].execution) {
      return std::unexpected(violation("it answers request number " +
                                       std::to_string(record.request) + ", which it doesn't have"));
    }
    execution = in_flight_[slot].execution;
  }
  Response& response = execution->response();
  response.clear();
  std::optional<Error> error;
  std::vector<Buffer> staged;
  if (record.failed) {
    error = Error{record.code, std::string(record.error), {}};
  } else if (auto filled = fill_response(response, record); !filled) {
    return filled;
  } else if (auto there = unstage(record, response, staged); !there) {
    error = there.error();
    response.clear();
  }
  if (error) {
    error = in_context(*error, execution->request().id);
    log_failure(*error);
  }
  if (final) {
    std::scoped_lock lock(mutex_);
    if (closed_) return {};
    free_slot(record.request & 0xFFFFF);
  }
  if (!error && std::ranges::any_of(response.outputs, &is_on_device)) {
    late_.push_back(
        {std::move(execution), std::move(response), record.empty, final, std::move(staged)});
    return {};
  }
  execution->respond(error ? &*error : nullptr, record.empty, final);
  return {};
}

Result<void> StubLink::fill_response(Response& response, const protocol::ResponseRecord& record) {
  for (const auto& parameter : record.parameters) {
    response.parameters.emplace_back(parameter.key, from_wire(parameter));
  }
  for (const protocol::TensorRecord& tensor : record.outputs) {
    auto data = take_memory(tensor);
    if (!data) return std::unexpected(data.error());
    Tensor& output = response.add_output();
    output.name = tensor.name;
    output.dtype = tensor.dtype;
    output.shape.assign(tensor.shape.begin(), tensor.shape.end());
    output.data = std::move(*data);
  }
  return {};
}

Result<Buffer> StubLink::take_memory(const protocol::TensorRecord& tensor) {
  const protocol::MemoryRef& memory = tensor.memory;
  if (tensor.device.kind == DeviceKind::Cuda && !find_lane(tensor.device)) {
    return std::unexpected(violation("output '" + std::string(tensor.name) +
                                     "' lies on a device that was not offered"));
  }
  const bool staged = memory.kind != protocol::MemoryKind::DeviceChunk && memory.bytes != 0;
  const bool on_device = tensor.device.kind == DeviceKind::Cuda && !staged;
  if (memory.kind == protocol::MemoryKind::Inline && !on_device)
    return copy_of(tensor.inline_bytes, CopyKind::Inline);
  if (!tensor.strides.empty()) {
    return std::unexpected(
        violation("output '" + std::string(tensor.name) + "' is not in C order"));
  }

  std::optional<LeaseBook::Range> lent;
  {
    std::scoped_lock lock(mutex_);
    lent = lent_.find(memory.lease);
    // Leases of the two arenas are counted apart: the place decides whose it is.
    if (lent && lent->segment != memory.place) lent.reset();
  }
  if (lent) return take_loan(tensor, *lent);
  return on_device ? take_device_memory(tensor)
                   : take_stub_range(memory, natural_alignment(tensor.dtype));
}

// An input that is passed through: its range moves to the caller, and the stub's hold must end
// here.
Result<Buffer> StubLink::take_loan(const protocol::TensorRecord& tensor,
                                   const LeaseBook::Range& lent) {
  const protocol::MemoryRef& memory = tensor.memory;
  if (!lent.contains(memory.place, memory.offset, memory.bytes)) {
    return std::unexpected(
        violation("output '" + std::string(tensor.name) + "' leaves the input that it names"));
  }
  if (!std::ranges::binary_search(given_back_, memory.lease)) {
    return std::unexpected(
        violation("output '" + std::string(tensor.name) + "' names an input that the stub keeps"));
  }
  if (!moved_.insert(moved_.size(), memory.place, memory.offset, memory.bytes)) {
    return std::unexpected(
        violation("output '" + std::string(tensor.name) + "' names bytes that another one names"));
  }
  if (lent.arena != nullptr) return hold_device(memory, lent);
  std::byte* data = lent.data + (memory.offset - lent.offset);
  bool misaligned = reinterpret_cast<std::uintptr_t>(data) % natural_alignment(tensor.dtype) != 0;
  bool crowded = host_->arena().bytes_in_use() > host_->arena().options().max_bytes / 2;
  if (misaligned || crowded) return copy_of({data, memory.bytes}, CopyKind::Host);
  return host_->hold(lent.block, data, memory.bytes);
}

Result<Buffer> StubLink::take_stub_range(const protocol::MemoryRef& memory, std::size_t alignment) {
  auto range = stub_segments_.resolve(memory.place, memory.offset, memory.bytes);
  if (!range) return std::unexpected(violation(range.error().message));
  bool crowded;
  {
    std::scoped_lock lock(mutex_);
    if (auto noted = out_.insert(memory.lease, memory.place, memory.offset, memory.bytes); !noted) {
      return std::unexpected(violation(noted.error().message));
    }
    crowded = out_.bytes() > options_.arena.max_bytes / 2;
  }
  bool misaligned = reinterpret_cast<std::uintptr_t>(range->bytes.data()) % alignment != 0;
  if (crowded || misaligned) {
    // Nobody may ever wait for a block that only a holder of answers can free.
    Buffer copy = copy_of(range->bytes, CopyKind::Host);
    release_stub_range(memory.lease);
    return copy;
  }
  return Buffer::shared(
      range->bytes.data(), range->bytes.size(),
      std::make_shared<StubLease>(weak_from_this(), range->segment, memory.lease));
}

void StubLink::release_stub_range(std::uint64_t lease) {
  {
    std::scoped_lock lock(mutex_);
    if (!(out_.erase(lease) || device_out_.erase(lease)) || closed_) return;
  }
  channel_->release_later(lease);
  host_->use();
}

Result<void> StubLink::on_releases(std::span<const protocol::LeaseRelease> releases) {
  std::vector<const protocol::LeaseRelease*> of_devices;
  std::unique_lock lock(mutex_);
  if (closed_) return {};
  for (const protocol::LeaseRelease& release : releases) {
    if (!device_loans_.empty() && device_loans_.contains(release.lease)) {
      of_devices.push_back(&release);
      continue;
    }
    if (!lent_.release(release.lease)) {
      return std::unexpected(violation("it gives back lease " + std::to_string(release.lease) +
                                       ", which it doesn't hold"));
    }
  }
  lock.unlock();
  for (const protocol::LeaseRelease* release : of_devices) {
    if (auto released = release_device(*release); !released) return released;
  }
  return {};
}

Result<void> StubLink::finish_batch(const protocol::Responses& message) {
  {
    std::scoped_lock lock(mutex_);
    if (closed_) return {};
    if (running_.empty() || running_.front().number != message.batch) {
      return std::unexpected(
          violation("it ends batch " + std::to_string(message.batch) + ", which it isn't at"));
    }
    const RunningBatch& batch = running_.front();
    auto unanswered =
        std::ranges::find_if(batch.slots, [&](std::size_t slot) { return is_inside(batch, slot); });
    if (unanswered != batch.slots.end()) {
      return std::unexpected(violation("it ends batch " + std::to_string(message.batch) +
                                       " without an answer to request '" +
                                       in_flight_[*unanswered].execution->request().id + "'"));
    }
    forget_batch(running_.begin());
    if (!running_.empty()) running_.front().since = std::chrono::steady_clock::now();
  }
  events_.batch_done(options_.index);
  return {};
}

// A model that fails every request must not fill the disk: at most a few lines a second, and a
// count of the rest.
void StubLink::log_failure(const Error& error) {
  constexpr std::uint64_t kPerSecond = 10;
  std::string text;
  {
    std::scoped_lock lock(mutex_);
    auto now = std::chrono::steady_clock::now();
    if (now - failures_window_ > std::chrono::seconds(1)) {
      failures_window_ = now;
      if (failures_silenced_ > 0) {
        text =
            "(" + std::to_string(failures_silenced_) + " more failed requests were not logged)\n";
      }
      failures_logged_ = failures_silenced_ = 0;
    }
    if (++failures_logged_ > kPerSecond) {
      ++failures_silenced_;
      return;
    }
  }
  logger_->error(options_.instance,
                 text + "request '" + error.context.request_id + "' failed: " + error.message);
}

}  // namespace tensorferry::server
