#include <tensorferry/cuda/import_cache.h>

#include <vector>

namespace tensorferry::cuda {

Result<std::shared_ptr<Chunk>> ImportCache::get(const ImportKey& key, const Opener& open) {
  std::scoped_lock lock(mutex_);
  if (auto it = chunks_.find(key); it != chunks_.end()) {
    ++counts_.found;
    return it->second;
  }
  auto chunk = open();
  if (!chunk) return chunk;
  ++counts_.opened;
  chunks_.emplace(key, *chunk);
  return chunk;
}

std::shared_ptr<Chunk> ImportCache::find(const ImportKey& key) const {
  std::scoped_lock lock(mutex_);
  const auto it = chunks_.find(key);
  return it == chunks_.end() ? nullptr : it->second;
}

bool ImportCache::drop(const ImportKey& key) {
  std::shared_ptr<Chunk> last;  // closed without the lock: that may wait for the device
  std::scoped_lock lock(mutex_);
  auto it = chunks_.find(key);
  if (it == chunks_.end()) return false;
  last = std::move(it->second);
  chunks_.erase(it);
  return true;
}

std::size_t ImportCache::drop_peer(std::uint64_t peer) {
  std::vector<std::shared_ptr<Chunk>> last;
  std::scoped_lock lock(mutex_);
  auto it = chunks_.lower_bound({.peer = peer, .device = {}, .buffer_id = 0});
  while (it != chunks_.end() && it->first.peer == peer) {
    last.push_back(std::move(it->second));
    it = chunks_.erase(it);
  }
  return last.size();
}

std::size_t ImportCache::size() const {
  std::scoped_lock lock(mutex_);
  return chunks_.size();
}

ImportCounts ImportCache::counts() const {
  std::scoped_lock lock(mutex_);
  return counts_;
}

}  // namespace tensorferry::cuda
