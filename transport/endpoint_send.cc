#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "endpoint_impl.h"

namespace tensorferry {
namespace {

// What the peer would refuse is refused here.
Result<protocol::TensorRecord> describe(const EndpointTensor& tensor) {
  auto refused = [&](const std::string& why) {
    return failure(ErrorCode::InvalidArgument,
                   "tensor '" + tensor.name.substr(0, 200) + "': " + why);
  };
  if (tensor.name.size() > protocol::kMaxNameBytes) {
    return refused("its name has " + std::to_string(tensor.name.size()) + " bytes, at most " +
                   std::to_string(protocol::kMaxNameBytes) + " are allowed");
  }
  if (!is_supported(tensor.dtype)) return refused(to_string(tensor.dtype) + " does not cross");
  protocol::TensorRecord record;
  record.name = tensor.name;
  record.dtype = tensor.dtype;
  record.shape = tensor.shape;
  const auto bytes = tensor.bytes();
  record.memory.bytes = bytes.size();
  record.device = tensor.shared.device();
  if (!tensor.shared.is_cpu()) {
    if (!bytes.empty()) record.memory.kind = protocol::MemoryKind::DeviceChunk;
  } else if (bytes.size() < protocol::kInlineBelowBytes) {
    record.inline_bytes = bytes;
  } else {
    record.memory.kind = protocol::MemoryKind::Segment;
  }
  if (auto valid = validate(record); !valid) return refused(valid.error().message);
  return record;
}

}  // namespace

// What moves with one message. Undone unless the message was sent.
class Endpoint::Impl::Shipment {
 public:
  explicit Shipment(Impl& end) : end_(end) { end_.channel.take_releases(given_back); }
  Shipment(const Shipment&) = delete;
  Shipment& operator=(const Shipment&) = delete;
  ~Shipment() {
    if (sent_) return;
    for (const Item& item : items_) unload(item);
    end_.devices.take_back(ready);
    // What this message would have released: its own, added last, went with their items.
    given_back.releases.resize(given_back.releases.size() - homeward_);
    end_.channel.keep_releases(given_back);
  }

  // A tensor that may move: where it lies, under which lease.
  protocol::MemoryRef load(EndpointTensor& tensor) {
    SharedBytes::Holder& holder = *tensor.shared.holder_;
    const auto bytes = tensor.shared.bytes_;
    const bool on_device = holder.place != nullptr;
    protocol::MemoryRef memory{
        on_device ? protocol::MemoryKind::DeviceChunk : protocol::MemoryKind::Segment, 0, 0,
        bytes.size(), 0};
    std::scoped_lock lock(end_.mutex);
    holder.moved = true;
    if (holder.lease != 0) {  // the peer's own range goes home
      memory.place = holder.segment->id();
      memory.offset = static_cast<std::uint64_t>(bytes.data() - holder.segment->data());
      memory.lease = holder.lease;
      end_.forget(holder);
      given_back.releases.push_back({holder.lease, {}});
      ++homeward_;
    } else {  // its hold becomes the lease's
      const Block block = holder.arena->lookup(holder.block).value();
      memory.place = block.segment;
      memory.offset = block.offset + static_cast<std::uint64_t>(bytes.data() - block.data);
      memory.lease = end_.lent.lend_held({block.id, block.segment, memory.offset, bytes.size(),
                                          bytes.data(), on_device ? holder.arena : nullptr});
      if (on_device) end_.device_loans.emplace(memory.lease, DeviceLoan{holder.place, {}});
    }
    items_.push_back({&tensor, memory});
    return memory;
  }
  // Events of all that is to be done before the peer may have them.
  Result<void> record() {
    std::map<DevicePlace*, DeviceStreams> work;
    for (const Item& item : items_) {
      const SharedBytes::Holder& holder = *item.tensor->shared.holder_;
      if (!holder.place) continue;
      for (DeviceStream stream : holder.users()) add_once(work[holder.place.get()], stream);
    }
    for (const auto& [place, streams] : work) {
      auto own = place->stream_after(streams);
      if (!own) return std::unexpected(own.error());
      if (auto recorded = end_.devices.record(*place, *own, ready); !recorded) return recorded;
      note_loans(*place, *own);
    }
    return {};
  }
  void sent() noexcept { sent_ = true; }

  GivenBack given_back;
  std::vector<protocol::EventSlot> ready;

 private:
  struct Item {
    EndpointTensor* tensor;
    protocol::MemoryRef memory;
  };

  // All that was done for them is behind what is on this stream now.
  void note_loans(const DevicePlace& place, DeviceStream own) {
    std::scoped_lock lock(end_.mutex);
    for (const Item& item : items_) {
      auto loan = end_.device_loans.find(item.memory.lease);
      if (loan != end_.device_loans.end() && loan->second.place.get() == &place)
        loan->second.own = own;
    }
  }

  void unload(const Item& item) {
    SharedBytes::Holder& holder = *item.tensor->shared.holder_;
    std::scoped_lock lock(end_.mutex);
    if (holder.lease != 0) {
      holder.moved = false;
      const protocol::MemoryRef& memory = item.memory;
      RangeTable& table = holder.place ? end_.device_out : end_.out;
      expects(table.insert(memory.lease, memory.place, memory.offset, memory.bytes).has_value(),
              "what was held can be held again");
      if (!holder.place)
        end_.held.emplace(holder.lease,
                          SegmentMap::Range{holder.segment, item.tensor->shared.bytes_});
    } else {
      end_.device_loans.erase(item.memory.lease);
      // Where the peer gave back what it was never told of, or is gone, the block is not ours now.
      holder.moved = !end_.lent.take_back(item.memory.lease);
    }
  }

  Impl& end_;
  std::vector<Item> items_;
  std::size_t homeward_ = 0;
  bool sent_ = false;
};

SharedBytes Endpoint::Impl::own(const Block& block, Arena& of, std::shared_ptr<DevicePlace> place) {
  SharedBytes shared;
  shared.holder_ = std::make_shared<SharedBytes::Holder>();
  shared.holder_->owner = shared_from_this();
  shared.holder_->block = block.id;
  shared.holder_->arena = &of;
  if (place) shared.device_ = {DeviceKind::Cuda, place->ordinal()};
  shared.holder_->place = std::move(place);
  shared.bytes_ = {block.data, block.bytes};
  return shared;
}

// It is nobody's here any more. Under mutex.
bool Endpoint::Impl::forget(const SharedBytes::Holder& holder) {
  held.erase(holder.lease);
  return (holder.place ? device_out : out).erase(holder.lease);
}

Result<SharedBytes> Endpoint::Impl::allocate(std::size_t bytes) {
  if (auto open = may_send(); !open) return std::unexpected(open.error());
  channel.inbox().poll();  // what has come home is used first
  auto block = arena.allocate(bytes);
  if (!block) return std::unexpected(block.error());
  SharedBytes shared = own(*block, arena);
  // Looked at once more: an end that was closed may live on and show what it held, so nothing of
  // that is ever handed out again.
  if (auto open = may_send(); !open) return std::unexpected(open.error());
  return shared;
}

bool Endpoint::Impl::may_move(const EndpointTensor& tensor) const noexcept {
  return tensor.shared && tensor.shared.holder_->owner.get() == this && tensor.shared.sole();
}

Result<void> Endpoint::Impl::make_movable(EndpointTensor& tensor) {
  if (may_move(tensor)) return {};
  auto copy = copy_of(tensor);
  if (!copy) return std::unexpected(copy.error());
  tensor.shared = std::move(*copy);
  return {};
}

Result<SharedBytes> Endpoint::Impl::copy_of(const EndpointTensor& tensor) {
  const auto bytes = tensor.bytes();
  if (tensor.shared.is_cpu()) {
    auto copy = allocate(bytes.size());
    if (copy) copy_payload(copy->bytes_.data(), bytes.data(), bytes.size());
    return copy;
  }
  return copy_on_device(tensor.shared);
}

Result<void> Endpoint::Impl::send(std::uint64_t tag, std::vector<EndpointTensor>& tensors,
                                  const Deadline& deadline) {
  if (auto open = may_send(); !open) return open;
  if (tensors.size() > protocol::kMaxListItems)
    return failure(ErrorCode::InvalidArgument, "more tensors than one message may have");
  std::vector<protocol::TensorRecord> records;
  records.reserve(tensors.size());
  for (const EndpointTensor& tensor : tensors) {
    auto record = describe(tensor);
    if (!record) return std::unexpected(record.error());
    records.push_back(*record);
  }
  auto travels_inline = [&](std::size_t i) {
    return records[i].memory.kind == protocol::MemoryKind::Inline;
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (travels_inline(i)) continue;
    if (auto movable = make_movable(tensors[i]); !movable) return movable;
  }
  Shipment shipment(*this);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!travels_inline(i)) records[i].memory = shipment.load(tensors[i]);
  }
  if (auto recorded = shipment.record(); !recorded) return recorded;
  auto sent = channel.send(protocol::UserMessage{tag, records, shipment.given_back.releases,
                                                 shipment.ready, shipment.given_back.seen},
                           Urgency::Lazy, deadline);
  if (!sent) return sent;
  shipment.sent();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (travels_inline(i)) count_copy(records[i].memory.bytes, CopyKind::Inline);
    tensors[i].shared = {};
  }
  // What was let go of while we held the ring would wait for the next message.
  (void)channel.flush_releases();
  return {};
}

// ------------------------------------------------------------------------------------ SharedBytes
bool SharedBytes::sole() const noexcept {
  if (holder_.use_count() != 1) return false;
  // Whoever held it too has let go; what it wrote before is seen from here on.
  std::atomic_thread_fence(std::memory_order_acquire);
  return true;
}

std::shared_ptr<const void> SharedBytes::mapping() const {
  if (!holder_) return nullptr;
  if (holder_->segment) return holder_->segment;
  return holder_->owner;
}

SharedBytes::Holder::~Holder() {
  if (moved || !owner || owner->inherited()) return;
  bool is_lent = false;
  if (block == 0) {
    std::scoped_lock lock(owner->mutex);
    is_lent = owner->forget(*this) && !owner->ended;
  }
  // What streams are at work on stays mapped until they are done, also when nobody waits for it.
  auto give_back = [owner = std::move(owner), segment = std::move(segment), block = block,
                    arena = arena, lease = is_lent ? lease : 0](Result<void>) {
    if (block != 0) arena->release(block);
    if (lease != 0) owner->channel.release_later(lease);
  };
  if (users_.empty())
    give_back({});
  else
    place->when_done(users_, std::move(give_back));
}

}  // namespace tensorferry
