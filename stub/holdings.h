// What Python holds of shared memory: inputs of the server's and blocks of our own, and what is
// decided about them while a batch is answered. Knows nothing of Python.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/fork_guard.h>

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "stub_link.h"

namespace tensorferry::stub {

// The GIL guards it.
class Holdings : private ForkParticipant {
 public:
  explicit Holdings(StubLink& link)
      : link_(link), fork_registration_(register_fork_participant(*this)) {}
  // Called in a forked child, where nothing may be taken from the arena or given back.
  void set_disown(void (*disown)() noexcept) { disown_ = disown; }

  // An input that has an address.
  void add_input(const InputMemory& memory);
  // A block on a device; those of the host's arena need not be told.
  void add_block(const Block& block, std::shared_ptr<DeviceUse> use);
  // Python let go of an input / of a block: given back, unless the batch being answered names it.
  void drop_input(const InputMemory& memory);
  void drop_block(const Block& block);
  // The model won't touch these bytes again (pb_utils.give): they may move, once, though Python
  // still holds them. Of a device: an address there.
  enum class Given : std::uint8_t { Yes, NotOurs, MovedBefore };
  Given give(std::span<const std::byte> bytes);

  StubLink& link() noexcept { return link_; }

 private:
  friend class OutputPlan;
  struct NamedInput {
    bool freed = false;
    std::shared_ptr<DeviceUse> use;
  };
  struct NamedBlock {
    bool freed = false;
    Block block;
  };
  // The arena that has a block at that address; nullptr where none of ours has.
  Arena* arena_of(const void* address);
  std::shared_ptr<DeviceUse> use_of(const Block& block) const;
  void release_input(std::uint64_t lease, DeviceUse* use);
  // Python's own hold ends.
  void release_block(const Block& block);

  void before_fork() noexcept override { link_.arena().lock_for_fork(); }
  void collect(std::vector<Mapping>& mappings) override;
  void after_fork_parent() noexcept override { link_.arena().unlock_after_fork(); }
  void after_fork_child() noexcept override;

  StubLink& link_;
  std::map<std::uintptr_t, const InputMemory*> inputs_;
  std::unordered_map<std::uint64_t, NamedInput> named_inputs_;  // by lease
  // What follows is by a block's address, which no two arenas share.
  std::unordered_map<const std::byte*, NamedBlock> named_blocks_;
  std::unordered_map<const std::byte*, std::shared_ptr<DeviceUse>> device_blocks_;
  // Of blocks that Python holds: what was given and hasn't moved yet, and what has moved though it
  // is held. That is another's from then on, whatever Python does with it.
  using Ranges = std::unordered_multimap<const std::byte*, std::span<const std::byte>>;
  Ranges given_, moved_;
  void (*disown_)() noexcept = nullptr;
  std::shared_ptr<void> fork_registration_;
};

}  // namespace tensorferry::stub
