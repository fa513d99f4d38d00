// What the caller holds instead of a pointer: a number that is never used twice, so that a stale
// handle is known as one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace fakecuda {

inline std::uint64_t next_serial() {
  static std::atomic<std::uint64_t> serial{1};
  return serial.fetch_add(1, std::memory_order_relaxed);
}

enum class HandleState : std::uint8_t { Alive, Destroyed, Unknown };

// HANDLE is one of the driver's opaque pointer types or an integer. Guarded by the driver's lock.
template <class Handle, class Object>
class Handles {
 public:
  Handle add(std::shared_ptr<Object> object) {
    const std::uint64_t key = kBase + next_serial() * 16;
    objects_[key] = std::move(object);
    return to_handle(key);
  }
  std::shared_ptr<Object> find(Handle handle) const {
    auto found = objects_.find(to_key(handle));
    return found == objects_.end() ? nullptr : found->second;
  }
  std::shared_ptr<Object> take(Handle handle) {
    auto found = objects_.find(to_key(handle));
    if (found == objects_.end()) return nullptr;
    auto object = std::move(found->second);
    objects_.erase(found);
    destroyed_.insert(to_key(handle));
    return object;
  }
  HandleState state(Handle handle) const {
    if (objects_.contains(to_key(handle))) return HandleState::Alive;
    return destroyed_.contains(to_key(handle)) ? HandleState::Destroyed : HandleState::Unknown;
  }
  std::vector<std::shared_ptr<Object>> all() const {
    std::vector<std::shared_ptr<Object>> found;
    for (const auto& [key, object] : objects_) found.push_back(object);
    return found;
  }
  std::size_t size() const { return objects_.size(); }

 private:
  // Above what user programs map by default, far from anything small, and the same in no two kinds
  // of handle.
  static constexpr std::uint64_t kBase = 0x0f00'0000'0000;

  static std::uint64_t to_key(Handle handle) {
    if constexpr (std::is_pointer_v<Handle>)
      return reinterpret_cast<std::uintptr_t>(handle);
    else
      return handle;
  }
  static Handle to_handle(std::uint64_t key) {
    if constexpr (std::is_pointer_v<Handle>)
      return reinterpret_cast<Handle>(key);
    else
      return key;
  }

  std::unordered_map<std::uint64_t, std::shared_ptr<Object>> objects_;
  std::unordered_set<std::uint64_t> destroyed_;
};

}  // namespace fakecuda
