#include "host_arena.h"

#include <algorithm>

#include "device_hold.h"

namespace tensorferry::server {

HostArena::HostArena(const std::shared_ptr<SegmentAuthority>& authority, ArenaOptions options,
                     std::shared_ptr<IdleWatch> watch)
    : HostArena([authority](std::size_t bytes) { return authority->create(bytes); }, {}, options,
                std::move(watch)) {}

HostArena::HostArena(SegmentMaker make, Device device, ArenaOptions options,
                     std::shared_ptr<IdleWatch> watch)
    : make_(std::move(make)),
      device_(device),
      watch_(std::move(watch)),
      arena_(
          options, [this](std::size_t bytes) { return grow(bytes); },
          [this](SegmentId id) {
            std::scoped_lock lock(mutex_);
            std::erase_if(announced_, [id](const auto& segment) { return segment->id() == id; });
            for (Subscriber* subscriber : subscribers_) subscriber->on_segment_dropped(id);
          }),
      fork_registration_(register_fork_participant(*this)) {}

Result<std::shared_ptr<Segment>> HostArena::grow(std::size_t bytes) {
  auto segment = make_(bytes);
  if (!segment) return segment;
  std::scoped_lock lock(mutex_);
  announced_.push_back(*segment);
  for (Subscriber* subscriber : subscribers_) subscriber->on_segment(*this, **segment);
  return segment;
}

Result<Buffer> HostArena::allocate(std::size_t bytes) {
  auto block = arena_.allocate(bytes);
  if (!block) return std::unexpected(block.error());
  use();
  return Buffer::shared(block->data, bytes,
                        std::make_shared<HostBlock>(shared_from_this(), block->id), device_);
}

Buffer HostArena::hold(BlockId block, std::byte* data, std::size_t bytes) {
  expects(arena_.add_holder(block), "a live block is held once more");
  return Buffer::shared(data, bytes, std::make_shared<HostBlock>(shared_from_this(), block),
                        device_);
}

void HostArena::subscribe(Subscriber& subscriber) {
  std::scoped_lock lock(mutex_);
  for (const auto& segment : announced_) subscriber.on_segment(*this, *segment);
  subscribers_.push_back(&subscriber);
}

void HostArena::unsubscribe(Subscriber& subscriber) {
  std::scoped_lock lock(mutex_);
  std::erase(subscribers_, &subscriber);
}

std::shared_ptr<Segment> HostArena::find_segment(SegmentId id) const {
  std::scoped_lock lock(mutex_);
  auto it = std::ranges::find(announced_, id, [](const auto& segment) { return segment->id(); });
  return it == announced_.end() ? nullptr : *it;
}

bool HostArena::is_pinned(const Buffer& buffer) const {
  const HostBlock* held = HostBlock::of(buffer, *this);
  auto block = held ? arena_.lookup(held->block()) : std::nullopt;
  auto segment = block ? find_segment(block->segment) : nullptr;
  return segment && segment->is_pinned();
}

std::size_t HostArena::pinned_bytes() const {
  std::scoped_lock lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& segment : announced_)
    if (segment->is_pinned()) bytes += segment->bytes();
  return bytes;
}

const HostBlock* HostBlock::of(const Buffer& buffer, const HostArena& arena) noexcept {
  const auto* hold = DeviceHold::of(buffer);
  const auto* block =
      dynamic_cast<const HostBlock*>(hold ? hold->memory().get() : buffer.holder().get());
  return block && block->arena_.get() == &arena ? block : nullptr;
}

}  // namespace tensorferry::server
