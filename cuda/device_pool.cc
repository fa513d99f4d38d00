#include <tensorferry/cuda/device_pool.h>
#include <tensorferry/cuda/gpu_error.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>

#include "let_go_later.h"
#include "pool_books.h"

namespace tensorferry::cuda {
namespace {

constexpr std::size_t kChunkStep = 2 << 20;  // chunks are whole pages of the device

}  // namespace

struct DevicePool::Impl {
  ContextPtr context;
  DevicePoolOptions options;
  // Outlives the pool: a withdrawn chunk counts until its last holder has let it go.
  std::shared_ptr<std::atomic<std::size_t>> chunk_bytes =
      std::make_shared<std::atomic<std::size_t>>(0);

  std::mutex growing;        // one thread makes a chunk; taken before `mutex`
  mutable std::mutex mutex;  // guards what follows
  PoolBooks books;
  LetGoLater later;

  // Drops the holders that have ended. Without the mutex.
  void drop(LetGoLater::Ended ended, std::unique_lock<std::mutex>& lock) {
    for (DeviceBlockId id : ended.blocks) books.release(id);
    if (ended.callbacks.empty()) return;
    lock.unlock();
    for (Done& done : ended.callbacks) done();
    lock.lock();
  }

  // Without making a chunk: looks at the oldest of what was let go after events, and at all of it
  // when there is no room otherwise.
  std::optional<DeviceBlock> take(std::size_t bytes) {
    if (bytes > options.max_bytes) return std::nullopt;
    std::unique_lock lock(mutex);
    drop(later.take_first_done(), lock);
    if (auto block = books.take(bytes)) return block;
    if (later.waiting() == 0) return std::nullopt;
    drop(later.take_done(), lock);
    return books.take(bytes);
  }

  std::shared_ptr<Chunk> counted(std::shared_ptr<Chunk> chunk) const {
    Chunk* plain = chunk.get();
    *chunk_bytes += plain->bytes();
    return {plain, [chunk = std::move(chunk), count = chunk_bytes](Chunk* gone) mutable {
              const std::size_t bytes = gone->bytes();
              chunk.reset();
              *count -= bytes;
            }};
  }

  std::unexpected<Error> no_room(std::size_t bytes) const {
    std::scoped_lock lock(mutex);
    return gpu_failure(GpuErrorKind::OutOfPool,
                       "no room for " + std::to_string(bytes) + " bytes in the device pool: " +
                           std::to_string(books.statistics().bytes_in_use) + " bytes are in use, " +
                           std::to_string(*chunk_bytes) + " of at most " +
                           std::to_string(options.max_bytes) + " are allocated on " +
                           to_string(context->device().uuid) +
                           "; raise gpu_pool_byte_size, or hold fewer device tensors at a time");
  }

  // A chunk in which `bytes` fit; a smaller one than is worth while where the device has no more.
  Result<void> grow(std::size_t bytes) {
    if (bytes > options.max_bytes) return no_room(bytes);
    const std::size_t need = (bytes + kChunkStep - 1) / kChunkStep * kChunkStep;
    const std::size_t room = options.max_bytes - std::min(options.max_bytes, chunk_bytes->load());
    if (need > room) return no_room(bytes);
    const std::size_t wanted = std::max(need, std::min(options.chunk_bytes, room));
    auto chunk = Chunk::create(context, wanted, options.mode);
    if (!chunk && need < wanted && is_gpu_error(chunk.error(), GpuErrorKind::OutOfDeviceMemory))
      chunk = Chunk::create(context, need, options.mode);
    if (!chunk) return std::unexpected(chunk.error());
    std::scoped_lock lock(mutex);
    books.add_chunk(counted(std::move(*chunk)));
    return {};
  }
};

DevicePool::DevicePool(ContextPtr context, DevicePoolOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->context = std::move(context);
  impl_->options = options;
}

DevicePool::~DevicePool() = default;

Result<DeviceBlock> DevicePool::allocate(std::size_t bytes) {
  if (bytes == 0)
    return failure(ErrorCode::InvalidArgument, "a tensor without bytes needs no device memory");
  while (true) {
    if (auto block = impl_->take(bytes)) return *block;
    std::scoped_lock growing(impl_->growing);
    // Somebody may have made a chunk meanwhile.
    if (auto block = impl_->take(bytes)) return *block;
    if (auto grown = impl_->grow(bytes); !grown) return std::unexpected(grown.error());
  }
}

std::optional<DeviceBlock> DevicePool::try_allocate(std::size_t bytes) {
  if (bytes == 0) return std::nullopt;
  return impl_->take(bytes);
}

bool DevicePool::add_holder(DeviceBlockId id, std::uint32_t count) {
  std::scoped_lock lock(impl_->mutex);
  std::uint32_t* holders = impl_->books.holders(id);
  if (!holders) return false;
  *holders += count;
  return true;
}

bool DevicePool::release(DeviceBlockId id) {
  std::scoped_lock lock(impl_->mutex);
  return impl_->books.release(id);
}

bool DevicePool::release_after(DeviceBlockId id, std::vector<EventHandle> events, PeerId by,
                               Done done) {
  std::scoped_lock lock(impl_->mutex);
  if (!impl_->books.holders(id)) return false;
  impl_->later.add(id, std::move(events), by, std::move(done));
  return true;
}

bool DevicePool::quarantine(DeviceBlockId id, PeerId peer) {
  std::scoped_lock lock(impl_->mutex);
  if (!impl_->books.holders(id)) return false;
  impl_->later.add_quarantined(id, peer);
  return true;
}

void DevicePool::quarantine(PeerId peer) {
  std::scoped_lock lock(impl_->mutex);
  impl_->later.quarantine(peer);
}

void DevicePool::end_quarantine(PeerId peer) {
  std::scoped_lock lock(impl_->mutex);
  for (DeviceBlockId id : impl_->later.end_quarantine(peer)) impl_->books.release(id);
}

std::size_t DevicePool::poll() {
  std::unique_lock lock(impl_->mutex);
  impl_->drop(impl_->later.take_done(), lock);
  return impl_->later.waiting();
}

std::optional<DeviceBlock> DevicePool::lookup(DeviceBlockId id) const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->books.lookup(id);
}

std::optional<DeviceBlock> DevicePool::find(DevicePtr address) const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->books.find(address);
}

std::shared_ptr<Chunk> DevicePool::chunk(ChunkId id) const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->books.chunk(id);
}

std::vector<std::pair<ChunkId, std::shared_ptr<Chunk>>> DevicePool::chunks() const {
  std::scoped_lock lock(impl_->mutex);
  return impl_->books.chunks();
}

std::vector<std::pair<ChunkId, std::shared_ptr<Chunk>>> DevicePool::withdraw_idle(
    std::size_t keep_bytes) {
  std::scoped_lock lock(impl_->mutex);
  return impl_->books.withdraw_idle(keep_bytes);
}

std::size_t DevicePool::bytes_in_use() const noexcept { return statistics().bytes_in_use; }

DevicePoolStatistics DevicePool::statistics() const {
  std::scoped_lock lock(impl_->mutex);
  DevicePoolStatistics all = impl_->books.statistics();
  all.waiting = impl_->later.waiting();
  all.quarantined = impl_->later.quarantined();
  all.chunk_bytes = *impl_->chunk_bytes;
  return all;
}

const ContextPtr& DevicePool::context() const noexcept { return impl_->context; }
const DevicePoolOptions& DevicePool::options() const noexcept { return impl_->options; }

}  // namespace tensorferry::cuda
