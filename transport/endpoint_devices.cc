// Device memory of one end: handed out, copied, received, and who works with it.
#include <algorithm>
#include <utility>

#include "endpoint_impl.h"

namespace tensorferry {
namespace {

constexpr std::size_t kPage = 4096;

// Aligned as devices and their libraries like it; what is beyond all memory stays so.
std::size_t whole_pages(std::size_t bytes) {
  std::size_t more = 0;
  return __builtin_add_overflow(bytes, kPage - 1, &more) ? bytes : more / kPage * kPage;
}

}  // namespace

Result<SharedBytes> Endpoint::Impl::allocate_on(int ordinal, std::size_t bytes) {
  if (auto open = may_send(); !open) return std::unexpected(open.error());
  channel.inbox().poll();
  auto home = devices.home(ordinal);
  if (!home) return std::unexpected(home.error());
  if (bytes == 0) {
    SharedBytes nothing;
    nothing.device_ = {DeviceKind::Cuda, ordinal};
    return nothing;
  }
  auto block = (*home)->arena.allocate(whole_pages(bytes));
  if (!block) return std::unexpected(block.error());
  SharedBytes shared = own(*block, (*home)->arena, (*home)->place);
  shared.bytes_ = shared.bytes_.first(bytes);
  if (auto open = may_send(); !open) return std::unexpected(open.error());
  return shared;
}

Result<SharedBytes> Endpoint::Impl::copy_on_device(const SharedBytes& memory) {
  const auto bytes = memory.bytes();
  auto copy = allocate_on(memory.device().id, bytes.size());
  if (!copy) return copy;
  SharedBytes::Holder& from = *memory.holder_;
  auto own = from.place->stream_after(from.users());
  if (!own) return std::unexpected(own.error());
  if (auto done = from.place->copy(copy->bytes_.data(), bytes.data(), bytes.size()); !done)
    return std::unexpected(done.error());
  from.use_on(*own);
  copy->use_on(*own);
  return copy;
}

Result<SharedBytes> Endpoint::Impl::take_device(const protocol::UserMessage& user,
                                                const protocol::TensorRecord& record,
                                                std::vector<std::uint64_t>& came_home) {
  const protocol::MemoryRef& memory = record.memory;
  if (memory.kind == protocol::MemoryKind::Inline) {  // it has no bytes, and so lies nowhere
    auto place = devices.place_of(record.device);
    if (!place) return std::unexpected(place.error());
    SharedBytes nothing;
    nothing.device_ = {DeviceKind::Cuda, (*place)->ordinal()};
    return nothing;
  }
  if (DeviceLinks::Home* home = devices.find_home(record.device)) {
    auto ours = take_home(user, memory, came_home, home);
    if (!ours) return std::unexpected(ours.error());
    if (*ours) return std::move(**ours);
  }
  auto range = devices.resolve(record.device, memory);
  if (!range) return std::unexpected(range.error());
  auto holder = std::make_shared<SharedBytes::Holder>();
  std::scoped_lock lock(mutex);
  if (auto noted = device_out.insert(memory.lease, memory.place, memory.offset, memory.bytes);
      !noted)
    return std::unexpected(noted.error());
  holder->owner = shared_from_this();
  holder->segment = std::move(range->segment);
  holder->lease = memory.lease;
  holder->place = std::move(range->place);
  SharedBytes shared;
  shared.bytes_ = range->bytes;
  shared.device_ = {DeviceKind::Cuda, holder->place->ordinal()};
  shared.holder_ = std::move(holder);
  return shared;
}

// Our own work on device memory that we have sent may still be under way there.
void Endpoint::Impl::void_loans() {
  std::unordered_map<std::uint64_t, DeviceLoan> loans;
  {
    std::scoped_lock lock(mutex);
    loans.swap(device_loans);
  }
  for (auto& [lease, loan] : loans) {
    std::optional<LeaseBook::Range> range;
    {
      std::scoped_lock lock(mutex);
      range = lent.take(lease);
    }
    if (!range) continue;
    auto release = [self = shared_from_this(), range](Result<void>) {
      range->arena->release(range->block);
    };
    if (loan.own)
      loan.place->when_done({*loan.own}, std::move(release));
    else
      release({});
  }
}

void SharedBytes::use_on(DeviceStream stream) {
  if (holder_) holder_->use_on(stream);
}

DeviceStreams SharedBytes::streams() const { return holder_ ? holder_->users() : DeviceStreams{}; }

void SharedBytes::Holder::use_on(DeviceStream stream) {
  std::scoped_lock lock(mutex_);
  add_once(users_, stream);
}

DeviceStreams SharedBytes::Holder::users() const {
  std::scoped_lock lock(mutex_);
  return users_;
}

}  // namespace tensorferry
