// Where the outputs of a batch lie when they cross (docs/design.md, "Zero-copy both ways"): in two
// steps, so that "nobody holds it any more" is asked after Python has let go. Knows nothing of
// Python; the caller serialises.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/fork_guard.h>

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "stub_link.h"

namespace tensorferry::stub {

// The inputs that Python holds, by address, and what is decided about blocks while a batch is
// answered.
class Holdings : private ForkParticipant {
 public:
  explicit Holdings(StubLink& link)
      : link_(link), fork_registration_(register_fork_participant(*this)) {}
  // Called in a forked child, where nothing may be taken from the arena or given back.
  void set_disown(void (*disown)() noexcept) { disown_ = disown; }

  void add_input(const InputMemory& memory);
  // Python let go of an input / NumPy freed an arena block: given back, unless the batch being
  // answered names it.
  void drop_input(const InputMemory& memory);
  void drop_block(const Block& block);
  // The model won't touch these bytes again (pb_utils.give): they may move, once, though Python
  // still holds them.
  enum class Given : std::uint8_t { Yes, NotOurs, MovedBefore };
  Given give(std::span<const std::byte> bytes);

  StubLink& link() noexcept { return link_; }

 private:
  friend class OutputPlan;
  // NumPy's own hold ends.
  void release_block(BlockId id);
  struct Named {
    bool freed = false;
  };
  void before_fork() noexcept override { link_.arena().lock_for_fork(); }
  void collect(std::vector<Mapping>& mappings) override;
  void after_fork_parent() noexcept override { link_.arena().unlock_after_fork(); }
  void after_fork_child() noexcept override;

  StubLink& link_;
  std::map<std::uintptr_t, const InputMemory*> inputs_;
  std::unordered_map<std::uint64_t, Named> named_inputs_;  // by lease
  std::unordered_map<BlockId, Named> named_blocks_;
  // Of blocks that Python holds: what was given and hasn't moved yet, and what has moved though it
  // is held. That is another's from then on, whatever Python does with it.
  using Ranges = std::unordered_multimap<BlockId, std::span<const std::byte>>;
  Ranges given_, moved_;
  void (*disown_)() noexcept = nullptr;
  std::shared_ptr<void> fork_registration_;
};

// Reused from batch to batch. The GIL guards it, as it guards Holdings.
class OutputPlan {
 public:
  explicit OutputPlan(Holdings& holdings) : holdings_(holdings) {}
  ~OutputPlan() { clear(); }
  OutputPlan(const OutputPlan&) = delete;
  OutputPlan& operator=(const OutputPlan&) = delete;

  // Forgets the last batch; what was freed while it was planned and never settled goes back, and so
  // does what was lent for outputs that were not sent.
  void clear();
  // An output's bytes, in C order: its place in the plan. Copies them now unless they lie in shared
  // memory that may move.
  Result<std::size_t> add(const std::byte* data, std::size_t bytes);
  // Room for an output that the caller writes itself (and counts). The bytes are valid until the
  // next call.
  struct Room {
    std::size_t place = 0;
    std::span<std::byte> bytes;
  };
  Result<Room> reserve(std::size_t bytes);
  // This output is not sent after all.
  void drop(std::size_t place);
  // Python has dropped its references: decides, copies what is still held. Then memory(place) is
  // valid, or failure(place) says why there is none.
  void settle();
  const Error* failure(std::size_t place) const {
    return outputs_[place].failure ? &*outputs_[place].failure : nullptr;
  }
  // The message is out: what it lends is the server's.
  void sent() noexcept;

  const protocol::MemoryRef& memory(std::size_t place) const { return outputs_[place].memory; }
  std::span<const std::byte> inline_bytes(std::size_t place) const { return outputs_[place].small; }
  // Leases of inputs that moved with their outputs.
  const std::vector<std::uint64_t>& releases() const noexcept { return releases_; }

 private:
  enum class Source : std::uint8_t { Done, Input, Block };
  struct Output {
    Source source = Source::Done;
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    std::uint64_t lease = 0;   // Input: the server's number
    tensorferry::Block block;  // Block
    std::uint64_t lent = 0;    // ours, of what is lent for it until it is sent
    protocol::MemoryRef memory;
    std::vector<std::byte> small;
    std::optional<Error> failure;
  };
  std::size_t next_place();
  bool name_input(Output& output);
  bool name_block(Output& output);
  bool may_move(const Output& output) const;
  void move_or_copy(Output& output);
  Result<void> copy_out(Output& output);
  void lend(Output& output, const Block& block, std::byte* data);
  void take_back(Output& output);
  bool overlaps_a_candidate(const std::byte* data, std::size_t bytes) const;

  Holdings& holdings_;
  std::vector<Output> outputs_;  // the first count_ are this batch's
  std::size_t count_ = 0;
  std::vector<std::uint64_t> releases_;
};

}  // namespace tensorferry::stub
