// The part of the conversation that concerns GPUs: what is lent of their memory and given back,
// which events stand for what. Nothing here waits for a GPU on the two upper rungs.
#include <tensorferry/transport/trace.h>

#include <algorithm>

#include "device_hold.h"
#include "stub_lease.h"
#include "stub_link.h"

namespace tensorferry::server {
namespace {

constexpr std::chrono::seconds kOfferPatience{10};

Deadline patience() { return Clock::now() + kOfferPatience; }

bool is_device_memory(const Buffer& data) { return !data.is_cpu() && data.size() > 0; }

}  // namespace

std::shared_ptr<DeviceLane> StubLink::find_lane(const Device& device) const {
  std::scoped_lock lock(mutex_);
  auto it = device.kind == DeviceKind::Cuda ? lanes_.find(device.id) : lanes_.end();
  return it == lanes_.end() ? nullptr : it->second;
}

Result<std::shared_ptr<DeviceLane>> StubLink::open_lane(int ordinal) {
  std::scoped_lock opening(opening_mutex_);
  if (auto lane = find_lane({DeviceKind::Cuda, ordinal})) return lane;
  auto arena = gpus_->open(ordinal);
  if (!arena) return std::unexpected(arena.error());
  auto lane = DeviceLane::open(*arena);
  if (!lane) return lane;
  if (auto offered = (*lane)->offer(*socket_, gpus_->options(), patience()); !offered)
    return std::unexpected(offered.error());
  {
    std::scoped_lock lock(mutex_);
    lanes_.emplace(ordinal, *lane);
  }
  if (shares_device_memory((*lane)->rung())) arena->blocks->subscribe(*this);
  if (const DeviceProbe& probe = (*lane)->probe(); (*lane)->rung() != arena->sharing->best().rung)
    note_rung(**lane, probe.choice());
  return lane;
}

// A stub for which what works for the model's others does not: never silently.
void StubLink::note_rung(const DeviceLane& lane, const cuda::RungChoice& choice) {
  lane.sharing().set(options_.instance, choice);
  logger_->warning(options_.instance, "tensors of " + to_string(lane.gpu().device().uuid) +
                                          " cross by " + std::string(to_string(choice.rung)) +
                                          " instead of " +
                                          std::string(to_string(lane.sharing().best().rung)) +
                                          " here: " + choice.reason);
}

void StubLink::close_lanes(const Error& why) {
  std::map<int, std::shared_ptr<DeviceLane>> lanes;
  std::unordered_map<std::uint64_t, DeviceLoan> loans;
  {
    std::scoped_lock lock(mutex_);
    lanes = lanes_;
    loans.swap(device_loans_);
  }
  // The stub is dead; what we put there ourselves may still be on its way.
  for (auto& [lease, loan] : loans) {
    std::optional<LeaseBook::Range> range;
    {
      std::scoped_lock lock(mutex_);
      range = lent_.take(lease);
    }
    std::vector<Awaited> ready;
    if (loan.ready) ready.push_back({loan.lane, *loan.ready, true});
    if (range) release_after(loan.lane, ready, range->block);
  }
  for (auto& [ordinal, lane] : lanes) {
    lane->gpu().poller().cancel(link_number_, why);
    lane->sharing().forget(options_.instance);
    lane->arena().unsubscribe(*this);
  }
}

// ------------------------------------------------------------------------------------ what we send

// Under send_mutex_. What the batch needs before a message may name its device memory: first of all
// the inputs that the config places there.
StubLink::ReadyEvents StubLink::record_ready(const Batch& batch) {
  ReadyEvents ready;
  Result<void> made = place_on_gpu(batch);
  for (const auto& execution : batch) {
    for (const Tensor& input : execution->request().inputs)
      if (made && is_device_memory(data_of(input))) made = make_ready(input, ready);
  }
  if (auto staged = await_staging(ready); made) made = staged;
  if (made) return ready;
  ready.failure = std::move(made.error());
  // That code would send the batch to another stub, where it would fare no better.
  if (ready.failure->code == ErrorCode::Unavailable) ready.failure->code = ErrorCode::Internal;
  return ready;
}

Result<void> StubLink::make_ready(const Tensor& input, ReadyEvents& ready) {
  const Device device = data_of(input).device();
  auto lane = open_lane(device.id);
  if (!lane) return std::unexpected(lane.error());
  if (!shares_device_memory((*lane)->rung())) return stage_input(**lane, input, ready);
  auto is_this = [&](const protocol::EventSlot& one) { return one.device == device; };
  if (std::ranges::any_of(ready.events, is_this)) return {};
  return record_event(*lane, ready);
}

// An event for each device of a batch, after all that was put there for it.
Result<void> StubLink::record_event(const std::shared_ptr<DeviceLane>& lane, ReadyEvents& ready) {
  if (std::ranges::find(ready.waited, lane->gpu_ptr()) != ready.waited.end()) return {};
  Result<std::optional<protocol::EventSlot>> recorded = std::nullopt;
  if (has_events(lane->rung())) recorded = lane->record_ready();
  if (!recorded) return std::unexpected(recorded.error());
  if (*recorded) {
    ready.lanes.push_back(lane);
    ready.events.push_back(**recorded);
    return {};
  }
  // The stub has no events, or holds tensors of so many messages that none is left.
  ready.waited.push_back(lane->gpu_ptr());
  return lane->gpu().wait(cuda::WaitReason::NoEvents);
}

// Under mutex_.
void StubLink::lend_device(const Buffer& buffer, const ReadyEvents& ready,
                           protocol::TensorRecord& record) {
  record.device = buffer.device();
  if (buffer.size() == 0) return;
  const auto& lane = lanes_.at(record.device.id);
  HostArena& arena = lane->arena();
  const HostBlock* holder = HostBlock::of(buffer, arena);
  expects(holder != nullptr, "a device tensor lies in its model's arena there when it is sent");
  Block block = arena.arena().lookup(holder->block()).value();
  const auto* data = buffer.bytes().data();
  const auto offset = block.offset + static_cast<std::uint64_t>(data - block.data);
  record.memory.kind = protocol::MemoryKind::DeviceChunk;
  record.memory.place = block.segment;
  record.memory.offset = offset;
  record.memory.lease = lent_.lend({block.id, block.segment, offset, buffer.size(),
                                    const_cast<std::byte*>(data), &arena.arena()});
  lent_now_.push_back(record.memory.lease);
  DeviceLoan loan{lane, {}};
  auto event = std::ranges::find(ready.events, record.device, &protocol::EventSlot::device);
  if (event != ready.events.end()) {
    loan.ready = *event;
    lane->hold(*event);
  }
  device_loans_.emplace(record.memory.lease, std::move(loan));
}

void StubLink::take_back_loan(std::uint64_t lease) {
  if (auto loan = device_loans_.extract(lease); loan && loan.mapped().ready)
    loan.mapped().lane->drop(*loan.mapped().ready);
  (void)lent_.release(lease);
}

// -------------------------------------------------------------------------------- what comes back

// The stub's events that a message names, as something to look at.
Result<std::vector<StubLink::Awaited>> StubLink::take_events(
    std::span<const protocol::EventSlot> events) {
  std::vector<Awaited> result;
  for (const protocol::EventSlot& event : events) {
    auto lane = find_lane(event.device);
    if (!lane) return std::unexpected(violation("it names an event of a device it wasn't offered"));
    if (auto taken = lane->take_recorded(event); !taken)
      return std::unexpected(violation(taken.error().message));
    result.push_back({std::move(lane), event, false});
  }
  return result;
}

// Calls `done` once all are complete; those of the stub's are its own again then, ours are dropped.
void StubLink::when_complete(const std::vector<Awaited>& events,
                             std::move_only_function<void(Result<void>)> done) {
  if (events.empty()) return done({});
  auto all = std::make_shared<Countdown>(events.size(), std::move(done));
  for (const Awaited& one : events) {
    if (one.ours) {
      one.lane->gpu().poller().watch(one.lane->our_event(one.event), 0,
                                     [one, all](Result<void> how) {
                                       one.lane->drop(one.event);
                                       all->part_done(std::move(how));
                                     });
    } else {
      watch_stubs(one, all);
    }
  }
}

// A dead stub's event may never be complete: what is watched for before close() is ended by it.
void StubLink::watch_stubs(const Awaited& one, const std::shared_ptr<Countdown>& all) {
  std::unique_lock lock(mutex_);
  if (closed_) {
    lock.unlock();
    return all->part_done(failure(ErrorCode::StubDied, "the stub ended meanwhile"));
  }
  one.lane->gpu().poller().watch(one.lane->stubs_event(one.event), link_number_,
                                 [self = weak_from_this(), one, all](Result<void> how) {
                                   if (how) {
                                     one.lane->give_back(one.event);
                                     if (auto link = self.lock())
                                       link->channel_->seen_later(one.event);
                                   }
                                   all->part_done(std::move(how));
                                 });
}

void StubLink::release_after(std::shared_ptr<DeviceLane> lane, const std::vector<Awaited>& events,
                             BlockId block) {
  // An error means that the stub is gone (it was reaped before anybody heard of it), or that the
  // device is: either way nobody writes there any more.
  when_complete(events, [lane = std::move(lane), block](Result<void>) {
    lane->arena().arena().release(block);
  });
}

// A lease on device memory comes back: the block is free once the stub's own work there is done.
Result<void> StubLink::release_device(const protocol::LeaseRelease& release) {
  DeviceLoan loan;
  BlockId block = 0;
  {
    std::scoped_lock lock(mutex_);
    auto it = device_loans_.find(release.lease);
    if (it == device_loans_.end()) return {};  // close() has seen to it
    loan = std::move(it->second);
    device_loans_.erase(it);
    block = lent_.take(release.lease).value().block;
  }
  auto events = take_events(release.after);
  if (!events) return std::unexpected(events.error());
  // Never touched by the stub: then what we put there is to be done before it is used anew.
  if (loan.ready && events->empty()) {
    events->push_back({loan.lane, *loan.ready, true});
  } else if (loan.ready) {
    loan.lane->drop(*loan.ready);
  }
  release_after(loan.lane, *events, block);
  return {};
}

// An output that names a loan is its receiver's once our own event is seen complete; what the stub
// did there it says itself.
Buffer StubLink::hold_device(const protocol::MemoryRef& memory, const LeaseBook::Range& lent) {
  std::shared_ptr<DeviceLane> lane;
  {
    std::scoped_lock lock(mutex_);
    const DeviceLoan& loan = device_loans_.at(memory.lease);
    lane = loan.lane;
    if (loan.ready) {
      lane->hold(*loan.ready);
      awaited_.push_back({lane, *loan.ready, true});
    }
  }
  return DeviceHold::wrap(
      lane->gpu_ptr(),
      lane->arena().hold(lent.block, lent.data + (memory.offset - lent.offset), memory.bytes),
      memory.bytes);
}

// Device outputs are answered when they are there: by the poller, once it has seen the events of
// their message complete.
void StubLink::respond_when_complete(std::uint64_t batch) {
  if (late_.empty()) return when_complete(std::exchange(awaited_, {}), [](Result<void>) {});
  struct Waiting {
    std::vector<Late> responses;
    AsyncSpan polled;
  };
  auto late = std::make_shared<Waiting>();
  late->responses = std::exchange(late_, {});
  late->polled.begin(Phase::PollDone, batch);
  auto self = shared_from_this();
  when_complete(std::exchange(awaited_, {}), [self, late](Result<void> how) {
    late->polled.end();
    for (Late& one : late->responses) {
      if (how) {
        one.execution->response() = std::move(one.response);
        one.execution->respond(nullptr, one.empty, one.final);
        continue;
      }
      Error error = self->in_context(how.error(), one.execution->request().id);
      self->log_failure(error);
      one.execution->respond(&error, false, true);
    }
    self->channel_->inbox().interrupt();
  });
}

Result<Buffer> StubLink::take_device_memory(const protocol::TensorRecord& tensor) {
  const protocol::MemoryRef& memory = tensor.memory;
  auto lane = find_lane(tensor.device);
  if (memory.bytes == 0) return Buffer::shared(nullptr, 0, nullptr, lane->gpu().name());
  auto range = lane->segments().resolve(memory.place, memory.offset, memory.bytes);
  if (!range) return std::unexpected(violation(range.error().message));
  {
    std::scoped_lock lock(mutex_);
    if (auto noted = device_out_.insert(memory.lease, memory.place, memory.offset, memory.bytes);
        !noted)
      return std::unexpected(violation(noted.error().message));
  }
  return DeviceHold::wrap(
      lane->gpu_ptr(),
      Buffer::shared(range->bytes.data(), range->bytes.size(),
                     std::make_shared<StubLease>(weak_from_this(), range->segment, memory.lease)),
      memory.bytes);
}

}  // namespace tensorferry::server
